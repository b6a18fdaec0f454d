"""PagePlan: a batch's block tables as the packed lists of pages that FlashInfer wants."""

from dataclasses import dataclass

import numpy as np

from headrace_worker.execute.attention.batch import Batch

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class PagePlan:
    """The pages of some sequences of a batch, one after the other."""

    indptr: Ints
    """[n + 1]: sequence i has the pages [indptr[i], indptr[i + 1])."""
    places: Ints
    """[indptr[n]]: where in the batch's flattened block tables each page's number is."""
    last_page_len: Ints
    """[n]: tokens in each sequence's last page, 1 to block_size."""
    query_indptr: Ints
    """[n + 1]: sequence i has the rows [query_indptr[i], query_indptr[i + 1]) of their queries."""

    @classmethod
    def of(cls, batch: Batch, sequences: range, block_size: int) -> "PagePlan":
        """``sequences``: not empty."""
        contexts = np.array(batch.context_lens[sequences.start : sequences.stop], dtype=np.int32)
        starts = np.array(batch.starts[sequences.start : sequences.stop + 1], dtype=np.int32)
        pages = -(-contexts // block_size)
        indptr = np.zeros(len(pages) + 1, dtype=np.int32)
        np.cumsum(pages, out=indptr[1:])
        owner = np.repeat(np.arange(sequences.start, sequences.stop, dtype=np.int32), pages)
        column = np.arange(indptr[-1], dtype=np.int32) - np.repeat(indptr[:-1], pages)
        return cls(
            indptr=indptr,
            places=owner * np.int32(batch.block_tables.shape[1]) + column,
            last_page_len=(contexts - 1) % block_size + np.int32(1),
            query_indptr=starts - starts[0],
        )
