"""The errors that a user meets: one clear line each."""


class InputError(ValueError):
    """Bad input, which the user can mend: a config value, a record, a file, a model that cannot be steered.

    The exit status is 2, and nothing was written. The message says what is wrong, where (file and line, or key) and
    what is allowed. `details` are further lines of the same kind, for input with several faults.
    """

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {line}" for line in self.details)])


class SteeringError(RuntimeError):
    """The model did not do what the steering says: nothing that it would compute may be trusted. Exit status 1."""
