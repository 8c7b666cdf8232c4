"""One file a source of records, named in `dataset.source`: `load(config)` returns all its records.

`load` raises InputError for a path that the source cannot use and for records that are not in order.
"""
