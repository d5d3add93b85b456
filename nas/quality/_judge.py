"""What is computed of every model's pictures: similarity to their prompts and distance to real ones."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nas._fingerprint import fingerprint_of_tensors, fingerprint_of_texts
from nas.errors import ModelError, NasError
from nas.quality._clip import Clip
from nas.quality._clip_score import WORST_COSINE
from nas.quality._distance import Distance, cmmd, frechet_distance, kid
from nas.quality._pictures import Pictures, picture_batches
from nas.quality.score import Score
from nas.sampling import placement

Inception = Callable[[Tensor], Tensor] | str | os.PathLike[str]


class Verdict(NamedTuple):
    """What a judge says of a model's pictures.

    Attributes:
        clip_score: mean cosine of picture and prompt; higher is better.
        kid: kernel distance over CLIP's features.
        cmmd: Gaussian kernel distance over CLIP's features.
        fid: Fréchet distance over Inception's features; None without such a network.
        diverged: how many pictures were not finite; each has the worst cosine and is black to the distances.
    """

    clip_score: Score
    kid: Distance
    cmmd: Distance
    fid: Distance | None
    diverged: int


class Judge:
    """Judges pictures of the same prompts against the same real pictures, whose features are computed once.

    KID's kernel is made for features of about unit variance: CLIP's unit vectors are multiplied by the root of their
    length. So it cannot be compared with values over Inception's features.

    Args:
        clip: for the CLIP score, KID and CMMD.
        prompts: the texts.
        real: real pictures, see `picture_batches`.
        inception: for FID: a function from pictures `[b x 3 x h x w]` with values from 0 to 1 to features `[b x d]`,
            which resizes and normalises by itself; a TorchScript file of such a module; or None: no FID.
        batch_size: pictures at a time.

    Raises:
        NasError: there are fewer than two prompts or real pictures, or one cannot be read.
        ModelError: the network for FID cannot be read or does not give rows of features.
    """

    def __init__(
        self, clip: Clip, prompts: Sequence[str], real: Pictures, inception: Inception | None, *, batch_size: int
    ) -> None:
        self.clip = clip
        self.prompts = list(prompts)
        self._inception = _load(inception) if isinstance(inception, str | os.PathLike) else inception
        self._texts = clip.embed_texts(self.prompts)
        digest, parts, self._probe = hashlib.sha256(), [], None
        for batch in picture_batches(real, batch_size=batch_size):
            _hash_into(digest, batch)
            parts.append(self._features(batch))
            # One picture by itself: in larger batches the last digits of its features are others.
            self._probe = self._features(batch[:1]).inception if len(parts) == 1 else self._probe
        self._real, self._real_hash = _Features.joined(parts), digest.hexdigest()[:16]
        if min(len(self.prompts), self.real_pictures) < 2:
            have = f"{len(self.prompts)} prompts and {self.real_pictures} real pictures"
            raise NasError(f"there are {have}; a distance needs at least two of each")

    @property
    def real_pictures(self) -> int:
        """How many there are."""
        return len(self._real.clip)

    def __call__(self, pictures: Iterable[Tensor]) -> Verdict:
        """Judge batches of pictures `[b x 3 x h x w]`, one picture a prompt, in the order of the prompts."""
        started, finite, parts = time.perf_counter(), [], []
        for batch in pictures:
            finite.append(batch.isfinite().flatten(1).all(1))
            parts.append(self._features(batch.nan_to_num(0.0).clamp(0, 1)))
        generated, fine = _Features.joined(parts), torch.cat(finite).cpu()
        cosines = (generated.clip * self._texts.cpu()).sum(dim=-1).where(fine, torch.tensor(WORST_COSINE))
        return Verdict(
            clip_score=Score.of(cosines.double().numpy(), seconds=time.perf_counter() - started),
            kid=kid(_unit_variance(generated.clip), _unit_variance(self._real.clip)),
            cmmd=cmmd(generated.clip, self._real.clip),
            fid=None if generated.inception is None else frechet_distance(generated.inception, self._real.inception),
            diverged=int((~fine).sum()),
        )

    def describe(self) -> dict[str, Any]:
        """What decides its verdicts, for a journal: CLIP, Inception, prompts and real pictures."""
        probe = [] if self._probe is None else [("first real picture", self._probe)]
        return {
            "clip": self.clip.fingerprint(),
            "prompts": len(self.prompts),
            "prompts_hash": fingerprint_of_texts(self.prompts),
            "real_pictures": self.real_pictures,
            "real_hash": self._real_hash,
            "inception": fingerprint_of_tensors(probe) if probe else None,
        }

    def _features(self, pictures: Tensor) -> _Features:
        embedded = self.clip.embed_images(pictures).cpu()
        return _Features(embedded, None if self._inception is None else _run(self._inception, pictures))


class _Features(NamedTuple):
    clip: Tensor
    inception: Tensor | None

    @classmethod
    def joined(cls, parts: Sequence[_Features]) -> _Features:
        inception = [part.inception for part in parts if part.inception is not None]
        return cls(torch.cat([part.clip for part in parts]), torch.cat(inception) if inception else None)


def _hash_into(digest: Any, pictures: Tensor) -> None:
    for picture in pictures.cpu().numpy():
        digest.update(f"{picture.shape}".encode() + picture.tobytes())


def _unit_variance(embeddings: Tensor) -> np.ndarray:
    return embeddings.double().numpy() * embeddings.shape[1] ** 0.5


@torch.no_grad()
def _run(network: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    if isinstance(network, nn.Module) and next(network.parameters(), None) is not None:
        pictures = pictures.to(*placement(network))
    features = network(pictures)
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(pictures):
        have = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ModelError(
            f"the network for FID gives {have} for {len(pictures)} pictures; it must give features [n x d]"
        )
    return features.float().cpu()


def _load(path: str | os.PathLike[str]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated; it is what Inception's weights for FID are passed around in.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.* is deprecated", category=DeprecationWarning)
            return torch.jit.load(os.fspath(path), map_location="cpu").eval()
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} is not a TorchScript file that can be read ({reason})") from error
