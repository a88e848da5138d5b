"""What reaches an API: prompts of customers and labelers, as they were sent."""

from dataclasses import dataclass, field

from minirlhf.engine.records import DataError, require_history, require_text

SOURCES = ("customer", "labeler")
KINDS = ("plain", "few-shot", "user-based")


@dataclass(frozen=True)
class Submission:
    """One prompt as somebody sent it.

    `user`: who sent it, an id; `organization`: whom they work for; `source`: customer or labeler;
    `kind`: labelers wrote plain, few-shot and user-based prompts (section 3.2 of the paper);
    `language`: ISO 639-1 code, "" = unknown; `personal`: (start, end, type) of each piece of
    personal data in `prompt`, in characters, where it is known because it was planted.
    Source: Ouyang et al. 2022, section 3.2 and appendix A (arXiv:2203.02155).
    """

    prompt: str
    id: str
    user: str
    organization: str = ""
    source: str = "customer"
    kind: str = "plain"
    use_case: str = ""
    language: str = ""
    history: tuple[str, ...] = ()
    personal: tuple[tuple[int, int, str], ...] = ()
    where: str = field(default="", compare=False, repr=False)

    def __post_init__(self):
        for name in ("prompt", "id", "user"):
            require_text(name, getattr(self, name))
        require_history(self)
        for name, allowed in (("source", SOURCES), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise DataError(
                    f"field '{name}': must be one of {', '.join(allowed)}, "
                    f"is {getattr(self, name)!r}"
                )
        object.__setattr__(self, "personal", tuple(tuple(span) for span in self.personal))
        for span in self.personal:
            whole = len(span) == 3 and all(type(place) is int for place in span[:2])
            if not whole or not 0 <= span[0] < span[1] <= len(self.prompt):
                raise DataError(
                    f"field 'personal': {span!r} is no (start, end, type) in the prompt"
                )
