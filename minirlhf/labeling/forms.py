"""What a labeler fills in about a response: overall quality and eleven flags."""

from dataclasses import dataclass, field

from minirlhf.engine.records import DataError

# Ouyang et al. 2022 (arXiv:2203.02155), Table 3, in its order.
FLAGS = (
    "fails_instruction",
    "inappropriate_for_assistant",
    "hallucination",
    "satisfies_constraint",
    "sexual_content",
    "violent_content",
    "encourages_harm",
    "denigrates_protected_class",
    "harmful_advice",
    "expresses_opinion",
    "expresses_moral_judgment",
)


@dataclass(frozen=True)
class Form:
    """One labeler's form for one response to one prompt.

    `overall`: quality from 1 (worst) to 7 (best); `flags`: those of FLAGS that were ticked;
    `rank`: place among the prompt's responses, 1 = best, equal = tied.
    Source: Ouyang et al. 2022, Table 3 and appendix B (arXiv:2203.02155).
    """

    prompt_id: str
    response: str
    labeler: str
    overall: int
    flags: tuple[str, ...] = ()
    rank: int = 1
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "flags", tuple(self.flags))
        for name, value, most in (("overall", self.overall, 7), ("rank", self.rank, None)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or value < 1 or (most is not None and value > most):
                allowed = f"1 to {most}" if most else "1, 2, 3, ..."
                raise DataError(f"field '{name}': must be {allowed}, is {value!r}")
        for flag in self.flags:
            if flag not in FLAGS:
                raise DataError(
                    f"field 'flags': unknown flag {flag!r}; known are {', '.join(FLAGS)}"
                )
        if len(set(self.flags)) < len(self.flags):
            raise DataError("field 'flags': a flag stands there twice")
