import pytest

from tests.benchmarks.datasets.raw_files import write_class_folder, write_idx_folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """A folder of IDX files with MNIST digits, in the format of Fashion-MNIST."""
    folder = tmp_path_factory.mktemp("digits")
    write_idx_folder(folder, train=30, test=10)
    return str(folder)


@pytest.fixture(scope="session")
def arrays_folder(tmp_path_factory):
    """A folder of class arrays with MNIST digits, in the format of Continual ImageNet."""
    folder = tmp_path_factory.mktemp("arrays")
    write_class_folder(folder, train=12, test=4, classes=4)
    return str(folder)
