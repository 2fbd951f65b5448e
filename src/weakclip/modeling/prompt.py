"""Learnable prompt: shared vectors before the words of every class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weakclip.clip import Encoder
from weakclip.datasets.classes import ClassSet
from weakclip.errors import DataError

INITIAL_STD = 0.02
"""Spread of CLIP's own token embeddings at initialisation (Radford et al. 2021); a prompt starts as loud as a word."""


class LearnablePrompt(nn.Module):
    """`N` trained vectors put after the start token and before the words of each class.

    The class words are frozen token embeddings; CLIP's frozen text tower reads `start, prompt, words, end, padding`.

    Args:
        class_embeddings: `(K, L, C)` float, frozen token embeddings without positions.
        end_positions: `(K,)` int64, where each class's end-of-text token stands, 0...L-1.
        length: `N`, how many vectors; 0 reads the plain class words.
        position: before which token they stand: 1 after a start token, 0 where there is none.

    Source: Zhu et al., IJCV 2024 (N = 8 is the best of those tried); Zhou et al., CoOp, IJCV 2022.
    """

    class_embeddings: Tensor
    end_positions: Tensor

    def __init__(self, class_embeddings: Tensor, end_positions: Tensor, *, length: int = 8, position: int = 1) -> None:
        super().__init__()
        self.position = position
        vectors = torch.empty(length, class_embeddings.shape[-1], device=class_embeddings.device)
        self.vectors = nn.Parameter(nn.init.trunc_normal_(vectors, std=INITIAL_STD) if length else vectors)
        self.register_buffer("class_embeddings", class_embeddings.detach().clone(), persistent=False)
        self.register_buffer("end_positions", end_positions.detach().clone(), persistent=False)

    @classmethod
    def for_classes(cls, clip: Encoder, class_set: ClassSet, *, length: int = 8) -> LearnablePrompt:
        """A prompt before the names of `class_set`, in the words of `clip`.

        Raises:
            DataError: prompt and class name together longer than the text tower reads, or a class that the encoder
                does not know.
        """
        unknown = [] if clip.known_texts is None else [name for name in class_set.names if name not in clip.known_texts]
        if unknown:
            raise DataError(f"{clip.source}: this encoder does not know the class {', '.join(map(repr, unknown))}")
        embeddings, end_positions = clip.token_embeddings(class_set.names)
        needed = length + embeddings.shape[1]
        if needed > clip.context_length:
            raise DataError(
                f"a prompt of {length} and class names of up to {embeddings.shape[1]} tokens need {needed} positions; "
                f"this encoder has {clip.context_length}: shorten the prompt (prompt_length) or the names"
            )
        return cls(embeddings, end_positions, length=length, position=clip.prompt_position)

    @property
    def length(self) -> int:
        """`N`."""
        return self.vectors.shape[0]

    def forward(self) -> tuple[Tensor, Tensor]:
        """The input of the frozen text tower.

        Returns:
            `t_k`, `(K, N+L, C)` float without positions, and the end-of-text positions `(K,)` int64 in it.
        """
        words, position = self.class_embeddings, self.position
        shared = self.vectors.to(words.dtype).expand(words.shape[0], -1, -1)
        return torch.cat([words[:, :position], shared, words[:, position:]], dim=1), self.end_positions + self.length

    def extra_repr(self) -> str:
        return f"length={self.length}, classes={self.class_embeddings.shape[0]}"
