"""One file a kind of task, named in `benchmark.task`: how a domain's test questions become an lm-eval task.

A kind has `METRICS`, the lm-eval metrics that it can be compared by, and `task(domain, records, questions)`, where
`questions` names the origin of the records; one that shows examples before the question asked has
`examples(questions)`, which are to be had with the data.
"""
