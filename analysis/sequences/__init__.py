"""Tasks one after another: success matrices, transfer and forgetting, and their report."""

from analysis.sequences.matrix import SuccessMatrix, read_matrix, write_matrix
from analysis.sequences.references import find_references, reference_key
from analysis.sequences.study import SequenceStudy, UnlikeSequences, study

__all__ = [
    "SequenceStudy",
    "SuccessMatrix",
    "UnlikeSequences",
    "find_references",
    "read_matrix",
    "reference_key",
    "study",
    "write_matrix",
]
