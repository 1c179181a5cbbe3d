"""Words of a command line, put together in tests from lists that may repeat a key."""


def named_once(words):
    """The words with every key named once: the last one counts, in the place of the first."""
    kept = {}
    for word in words:
        kept[word.partition("=")[0]] = word
    return list(kept.values())
