"""Data sets inside of data sets, as configs nest them."""

from collections.abc import Iterator


def unwrap(dataset: dict | None, key: str = 'dataset') -> Iterator[tuple[str, dict]]:
    """Data sets inside of ConcatDataset, RepeatDataset, MultiImageMixDataset and the like.

    Args:
        dataset (dict, optional): Config of a data set or of a wrapper; None has none inside.
        key (str): Where it stands in its config. Defaults to 'dataset'.

    Yields:
        tuple[str, dict]: Key and config of each that is no wrapper.
    """
    if dataset is None:
        return
    if 'datasets' in dataset:
        for number, inner in enumerate(dataset['datasets']):
            yield from unwrap(inner, f'{key}.datasets.{number}')
    elif 'dataset' in dataset:
        yield from unwrap(dataset['dataset'], f'{key}.dataset')
    else:
        yield key, dataset
