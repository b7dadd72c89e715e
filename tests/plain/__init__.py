"""A second implementation of `sekisho scan`'s row-by-row part, to hold the real one against.

Written from the contract alone, with the standard library alone, for the reader's eye rather than for
speed: one record at a time, plain dictionaries, no shared code with the product. Its only input from the
product is the SKU catalogue, which is data.

- `values`: one payload to a decoded record or a reason (contract, *Values*, sections 1 and 2)
- `references`: versions, tombstones, who is in force (sections 2, 3.1, 3.2)
- `judge`: resolved columns, verdicts and subjects of one event (sections 3 and 4, row rules)
- `scan`: a directory of NDJSON files to all of that (section 6)
"""
