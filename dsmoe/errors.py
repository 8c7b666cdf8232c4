"""The errors that a user can mend: one clear line each, exit status 2."""


class InputError(ValueError):
    """Bad input: a config value, a record, a file, a model that cannot be steered.

    The message says what is wrong, where (file and line, or key) and what is allowed. `details` are further lines of
    the same kind, for input with several faults.
    """

    def __init__(self, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.details = details

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  {line}" for line in self.details)])
