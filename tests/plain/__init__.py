"""A second implementation of `sekisho scan`, to hold the real one against.

Written from the contract alone, with the standard library alone, for the reader's eye rather than for
speed: one record at a time, plain dictionaries, no shared code with the product. Its only input from the
product is the SKU catalogue, which is data.

- `values`: one payload to a decoded record or a reason (contract, *Values*, sections 1 and 2)
- `references`: versions, tombstones, who is in force (sections 2, 3.1, 3.2)
- `judge`: resolved columns, verdicts and subjects of one event (sections 3 and 4, row rules)
- `scan`: a directory of NDJSON files to all of that (section 6)

Row by row so far. What all records together say:

- `landed`: accepted events, and which are duplicates (section 1)
- `chain`: which `allocated` event an allocation id stands for, and whether it is open (3.2, section 4)
- `completion`: row rules through the allocation (3.2)
- `deadlines`, `sweeps`: the rules of those kinds that judge an event (section 4)
- `sources`: holes, silences, the watermark (3.6, section 4)
- `findings`: firings to findings and their states (3.7, section 4)
- `coverage`: the pieces of every allocation (section 4)
- `history`: a directory of NDJSON files to all of that
"""
