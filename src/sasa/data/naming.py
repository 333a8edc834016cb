"""What names of files and directories mean: splits ("Train2017", "val"), images, masks, and no more than "data"."""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from sasa.data.text import printable
from sasa.errors import DataError

SPLITS = ("train", "val", "test")
HELD_OUT = ("val", "test")  # splits to hold out, the preferred one first

# Without accents. Names in other languages are common enough; directories of unknown names are refused elsewhere.
_SPLIT_WORDS = {
    "train": "train training trn trainval trainings learning entrenamiento treino treinamento entrainement "
    "apprentissage addestramento обучение 训练 训练集 訓練 학습 훈련",
    "val": "val valid validation validate dev devel eval evaluation heldout holdout validierung validacion validacao "
    "validazione валидация 验证 验证集 検証 검증",
    "test": "test testing tests tst prueba pruebas teste тест 测试 测试集 テスト 테스트",
}
_SPLIT_OF = {word: split for split, words in _SPLIT_WORDS.items() for word in words.split()}
# Words without a meaning in a name: "train_images" is the training split, but "bullet_train" may be a class.
_FILLERS = frozenset(
    "set sets data dataset datasets split subset image images img imgs photo photos picture pictures pic pics frame "
    "frames file files folder dir directory jpg jpeg jpegs png jpegimages daten the of for all raw".split()
)
_MASKS = frozenset(
    "mask masks label labels annotation annotations ann anns segmentation segmentations trimaps gt groundtruth".split()
)
# Words of the names of parts, without their numbers: "images_1", "fold2".
PARTS = frozenset("image images img imgs photos part batch fold chunk set dataset".split())


def split_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """Return the split that a name stands for, and the other words of the name.

    "Train2017", "training_set", "TRAIN-images" and "trainset" are ("train", ()), "seg_train" is ("train", ("seg",)),
    "cat" is (None, ("cat",)). A name that holds words of several splits stands for none, but for "train_val", which
    is the training split.
    """
    if not name.isascii():
        letters = (letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
        name = unicodedata.normalize("NFC", "".join(letters))
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+", name)
    words = [
        _unglued(word.lower()) for word in re.sub(r"\b(held|hold) out\b", r"\1out", " ".join(words), flags=re.I).split()
    ]
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    rest = tuple(word for word in words if word not in _SPLIT_OF and word not in _FILLERS)
    if splits == {"train", "val"}:
        return "train", rest
    return (splits.pop(), rest) if len(splits) == 1 else (None, rest or tuple(words))


def _unglued(word: str) -> str:
    """Remove a filler from the end of a split: "trainset" and "trainimages" give "train"; other words are unchanged."""
    match = re.fullmatch(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(_FILLERS)})", word)
    return match[1] if match else word


def exact_split(name: str) -> str | None:
    """Return the split that a name stands for, or None if the name has other words too."""
    split, rest = split_of(name)
    return None if rest else split


def says_nothing(name: str) -> bool:
    """Return whether a directory is named for a split, or "images", "data" or the like, which is no class."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    return exact_split(name) is not None or (bool(words) and _FILLERS.issuperset(words))


def is_of_masks(name: str) -> bool:
    """Return whether a directory is named for masks or annotations: "masks", "SegmentationClass", "ground_truth"."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    return not _MASKS.isdisjoint([*words, "".join(words)]) and len(words) < 3


def by_split(
    paths: Iterable[Path],
    split_of_path: Callable[[Path], str | None] = lambda path: split_of(path.name)[0],
    what: str = "directories",
) -> dict[str, Path]:
    """Map splits to the directories (or lists) that are named for them; raises `DataError` if two are for the same."""
    found: dict[str, Path] = {}
    for path in paths:
        split = split_of_path(path)
        if split in found:
            end = "/" if what == "directories" else ""
            raise DataError(
                f"{printable(path.parent)} holds two {what} for the {split} split, "
                f"{printable(found[split].name)}{end} and {printable(path.name)}{end}: move one away"
            )
        if split:
            found[split] = path
    return found


def choose_splits(
    where: str, found: Collection[str | None], title: Callable[[str | None], str]
) -> tuple[str | None, list[str]]:
    """Choose the held-out split: (its name or None, sentences about the splits that are not used).

    Args:
        where: the path of the data.
        found: names of splits; None for files whose names say no split.
        title: what a split is called in sentences.

    Raises:
        DataError: there is no training split.
    """
    if "train" not in found:
        raise DataError(f"{where} has {' and '.join(map(title, found))} but none for training")
    held_out = next((split for split in HELD_OUT if split in found), None)
    unused = [split for split in found if split is None or split not in ("train", held_out)]
    why = f"{held_out} is the held-out split"
    return held_out, [f"not used: {title(s)} ({why if s else 'no split in their names'})" for s in unused]
