"""The commands. Each is a few lines on the pipeline; settings come from defaults, then a YAML
file, then flags."""

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from minirlhf import __version__
from minirlhf.datasheet import tables, write_datasets
from minirlhf.doctor import doctor_command
from minirlhf.engine import parallel
from minirlhf.engine.backbone import BASE, SCALAR_ROLES
from minirlhf.engine.batches import Encoder
from minirlhf.engine.checkpoint import CARD, open_checkpoint, read_card
from minirlhf.engine.fetch import FetchError, fetch_smollm2
from minirlhf.engine.models import load_backbone
from minirlhf.engine.optimisation import NotFinite
from minirlhf.engine.paths import data_folder
from minirlhf.engine.records import DataError, Prompt
from minirlhf.engine.rollout import sample
from minirlhf.engine.settings import (
    MAX_SEED,
    line_of,
    paper_values,
    read_settings,
    value_type,
    with_values,
)
from minirlhf.evaluation.evaluate import Answer, System
from minirlhf.evaluation.report import write_report
from minirlhf.export import export
from minirlhf.ladder import climb, ladder_row, make_base
from minirlhf.memory_report import add_memory_flags, memory_command
from minirlhf.pipeline import ORDER, POLICIES, ROLES, Run, Settings
from minirlhf.stages.pretrain import LADDER, PretrainConfig
from minirlhf.study.command import add_study_flags, study_command

RESUME = "go on where it was stopped, to the same end"
DESCRIPTION = "How InstructGPT was made: all three stages, on a laptop."
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
STAGES = {
    "run": ("run", "lora", "sft", "reward", "ppo"),
    "sft": ("run", "lora", "sft"),
    "reward": ("run", "lora", "reward"),
    "ppo": ("run", "lora", "ppo"),
    "evaluate": ("run", "lora"),
}
MAKES = {"sft": ("sft",), "reward": ("reward",), "ppo": tuple(POLICIES)}  # stages of a command
# What stands on a stage: out of date once that stage is made anew.
LATER = {"sft": ("reward", *POLICIES), "reward": tuple(POLICIES)}
HELP = {
    "run": "all three stages in a row, then a table of answers and a report",
    "sft": "stage 1: fine-tune the base on demonstrations",
    "reward": "stage 2: train the reward model on rankings (after sft)",
    "ppo": "stage 3: PPO and PPO-ptx against the reward model (after sft and reward)",
    "evaluate": "answers and result table of a run's checkpoints, and its report",
}


class Parser(argparse.ArgumentParser):
    """argparse, with a bad flag answered by one line and exit code 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> None:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """All commands with their flags; each setting's help has the paper's value beside ours."""
    parser = Parser(prog="minirlhf", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command, stages in STAGES.items():
        sub = commands.add_parser(command, help=HELP[command], description=HELP[command] + ".")
        sub.add_argument("--name", metavar="NAME", help="the run's folder is runs/NAME")
        sub.add_argument("--settings", metavar="FILE", help="YAML file: {stage: {setting: value}}")
        sub.add_argument("--quick", action="store_true", help="a small budget: see the shape of it")
        if command != "evaluate":
            sub.add_argument("--resume", action="store_true", help=RESUME)
        for stage in stages:
            _add_settings(sub, stage, getattr(Settings(), stage))
    sub = commands.add_parser("pretrain", help="train a base model from scratch, of any size")
    sub.add_argument("--out", metavar="FOLDER", default="runs/moonlet", help="where it is saved")
    sub.add_argument("--resume", action="store_true", help=RESUME)
    _add_settings(sub, "pretrain", PretrainConfig())
    sub = commands.add_parser("ladder", help="make the ladder of base models anew, and measure it")
    sub.add_argument("--out", metavar="FOLDER", default="runs/ladder", help="where it is saved")
    sub.add_argument("--resume", action="store_true", help=RESUME)
    sub.add_argument("--sizes", nargs="+", choices=LADDER, metavar="SIZE", help=", ".join(LADDER))
    sub = commands.add_parser("data", help="every table of the data; with --out also as files")
    sub.add_argument("--seed", type=int, default=0, help="of customers, labelers, splits [0]")
    sub.add_argument("--out", metavar="FOLDER", help="write the datasets in TRL's formats there")
    sub = commands.add_parser("memory", help="will it fit? bytes per role and stage of a run")
    add_memory_flags(sub)
    for stage in STAGES["run"]:
        _add_settings(sub, stage, getattr(Settings(), stage))
    sub = commands.add_parser("study", help="the paper's results in miniature, with error bars")
    add_study_flags(sub)
    sub = commands.add_parser("fetch", help="get SmolLM2-135M once (93 MB), for offline use")
    sub.add_argument("model", choices=["smollm2"])
    sub = commands.add_parser("chat", help="talk to a run, a checkpoint, or a base model")
    sub.add_argument("model", help="a folder such as runs/NAME/ppo-ptx, or a model's name")
    sub.add_argument("--temperature", type=float, default=0.7, help="0 = the likeliest answer")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--tokens", type=int, default=60, help="longest answer, tokens")
    sub = commands.add_parser("export", help="plain models and data for other tools")
    sub.add_argument("source", help="a stage's folder, runs/NAME/STAGE, or a whole run, runs/NAME")
    sub.add_argument("--out", metavar="FOLDER", required=True, help="a folder that is not there")
    commands.add_parser("doctor", help="what this machine has, and whether all is in place")
    return parser


def _add_settings(parser: Parser, stage: str, settings: Any) -> None:
    """One flag per setting."""
    title = type(settings).__doc__.strip().splitlines()[0]
    group = parser.add_argument_group(stage, title)
    for item in dataclasses.fields(settings):
        paper = item.metadata["paper"]
        note = f"; paper {paper}" if paper is not None else ""
        choices = f" ({' | '.join(item.metadata['choices'])})" if item.metadata["choices"] else ""
        group.add_argument(
            flag_of(stage, item.name),
            dest=f"{stage}.{item.name}",
            metavar=value_type(item)[0].__name__.upper(),
            help=f"{item.metadata['help']}{choices} [{getattr(settings, item.name)}{note}]".replace(
                "%", "%%"
            ),
        )


def settings_from(args: argparse.Namespace, earlier: Path | None = None) -> Settings:
    """Defaults, then the model's preset, an earlier command's settings, the file, the flags."""
    flags: dict[str, dict[str, str]] = {}
    for name, value in vars(args).items():
        stage, dot, field = name.partition(".")
        if dot and value is not None:
            flags.setdefault(stage, {})[field] = value
    files = [file for file in (earlier, args.settings) if file]
    layers = [(file, read_settings(file)) for file in files] + [("", flags)]
    model, task = "moonlet-1m", "auto"
    for _, values in layers:
        model = str(values.get("run", {}).get("model", model))
        task = str(values.get("run", {}).get("task", task))
    settings = Settings()
    for quick in (True, False) if args.quick else (False,):
        preset = preset_file(model, task, quick)
        if preset.is_file():  # a quick preset that was asked for goes over an earlier command's
            place = 1 if quick and earlier else 0
            layers.insert(place, (preset, read_settings(preset)))
    for source, values in layers:
        for stage, changes in values.items():
            if stage not in settings.stages():
                where = f"{source}:{line_of(source, stage)}: field '{stage}'"
                raise DataError(f"{where}: no such stage; known are {', '.join(STAGES['run'])}")
            for name, value in changes.items():
                try:
                    changed = with_values(getattr(settings, stage), {name: value})
                except DataError as error:
                    problem = str(error).removeprefix(f"{name}: ")
                    if source:
                        where = f"{source}:{line_of(source, stage, name)}: field '{stage}.{name}'"
                    else:
                        where = flag_of(stage, name)
                    raise DataError(f"{where}: {problem}") from None
                setattr(settings, stage, changed)
    return settings


def flag_of(stage: str, name: str) -> str:
    """The flag of a setting: of the run itself without a prefix, of a stage --stage.setting."""
    return "--" + (name if stage in ("run", "pretrain") else f"{stage}.{name}").replace("_", "-")


def preset_file(model: str, task: str, quick: bool) -> Path:
    """What suits a task or a kind of model; the defaults fit a moonlet that answers questions."""
    kind = "api" if task == "api" else "moonlet" if "moonlet" in model else "other"
    return data_folder() / "settings" / f"{kind}{'-quick' if quick else ''}.yaml"


def bars(steps: Iterable[dict], total: int, label: str) -> Iterator[dict]:
    """Progress with time left and the two or three numbers that matter."""
    shown = ("train_loss", "ranking_loss", "pair_accuracy", "scores", "ref_kl", "valid_loss")
    quiet = None if parallel.is_main() else True  # None: quiet where nobody looks
    with tqdm(total=total, desc=f"{label:>12}", ncols=100, disable=quiet, unit="step") as bar:
        for stats in steps:
            bar.update()
            bar.set_postfix({k: f"{stats[k]:.3g}" for k in shown if k in stats}, refresh=False)
            yield stats


@parallel.main_only
def tell(text: str) -> None:
    """What a guard has found, in a line of its own above the progress."""
    tqdm.write(f"minirlhf: {text}", file=sys.stderr)


def run_folder(name: str | None, model: str, fresh: bool) -> Path:
    """runs/NAME; a fresh run never takes a folder that holds something already."""
    wanted = Path("runs") / (name or Path(model).resolve().name)
    left = {path.suffix for path in wanted.iterdir()} if wanted.exists() else set()
    if not fresh or left <= {".partial"}:  # killed before anything was written
        return wanted
    if name:
        raise DataError(f"{wanted}: holds an earlier run; choose another --name")
    number = 2
    while (folder := wanted.with_name(f"{wanted.name}-{number}")).exists():
        number += 1
    return folder


def stage_command(args: argparse.Namespace) -> None:
    """run goes through everything; the others load what they need and do their part."""
    command, started = args.command, time.perf_counter()
    resume = command != "evaluate" and args.resume
    model = args.__dict__["run.model"]
    if model is None and args.settings:
        model = read_settings(args.settings).get("run", {}).get("model")
    folder = run_folder(args.name, str(model or "moonlet-1m"), command == "run" and not resume)
    args.name = folder.name  # main tells how to go on with it
    earlier = folder / "settings.yaml"
    known = (command != "run" or resume) and earlier.is_file()
    settings = settings_from(args, earlier if known else None)
    with Run(folder, settings, bars, resume, tell) as run:
        if run.bookmark.stage not in ("", *(MAKES.get(command, ORDER))):
            raise DataError(
                f"{folder}: {run.bookmark.stage} comes next there, not {command}; go on with: "
                f"minirlhf run --name {folder.name} --resume"
            )
        answers = run.everything() if command == "run" else part_of(run, command)
        if answers and parallel.is_main():
            results = run.write_results(answers)
            paper = {stage: paper_values(item) for stage, item in settings.stages().items()}
            report = write_report(folder, paper)
            show(run, results, answers)
            print(f"\nreport: {report}")
            run.finish()
    stale = [stage for stage in LATER.get(command, ()) if (folder / stage).is_dir()]
    if stale:
        print(f"note: {', '.join(stale)} came from the earlier {command}; make them again")
    print(f"{command} took {(time.perf_counter() - started) / 60:.1f} minutes; see {folder}")


def part_of(run: Run, command: str) -> list[Answer]:
    """One stage, or the answers of a run's checkpoints; each on what earlier commands left."""
    for stage in ("sft", "reward"):
        if command == stage:
            run.make(stage)
            return []
        run.load(stage, ROLES[stage])
    if command == "ppo":
        for stage in POLICIES:
            run.make(stage)
        return []
    answers = run.evaluate(run.task.systems)
    for stage, name in POLICIES.items():
        if (run.folder / stage).is_dir():
            run.load(stage, "policy")
            answers += run.evaluate([System(name, "policy")])
    return answers


def show(run: Run, results: dict[str, Any], answers: list[Answer]) -> None:
    """The shown prompts with every system's answer, then the result table."""
    for prompt in run.task.shown_prompts:
        print(f"\n{prompt.prompt}")
        for answer in (a for a in answers if a.prompt == prompt.prompt):
            gold = "" if answer.gold is None else f"gold {answer.gold:.2f}  "
            text = " / ".join(answer.answer.splitlines())[:150] or "(says nothing)"
            print(f"  {answer.system:>13}  {gold}RM {answer.score:+.2f}  {text}")
    print(f"\nmeans over {results['prompts']} held-out prompts")
    print(f"  {'':>13}  {'gold judge':^18}  {'RM score':>8}  {'KL, nats':>8}  {'tokens':>6}")
    for name, row in results["systems"].items():
        gold = "-"
        if "gold" in row:
            gold = f"{row['gold']:.2f} [{row['gold_low']:.2f}, {row['gold_high']:.2f}]"
        kl = "-" if row["ref_kl"] is None else f"{row['ref_kl']:z.1f}"  # z: no -0.0
        print(f"  {name:>13}  {gold:^18}  {row['score']:>+8.2f}  {kl:>8}  {row['length']:>6.1f}")


def pretrain_command(args: argparse.Namespace) -> None:
    """Corpus, tokenizer, model: saved as transformers and tokenizers save them."""
    values = {
        name.removeprefix("pretrain."): value
        for name, value in vars(args).items()
        if name.startswith("pretrain.") and value is not None
    }
    try:
        config = with_values(PretrainConfig(), values)
    except DataError as error:
        name, _, problem = str(error).partition(": ")
        raise DataError(f"{flag_of('pretrain', name)}: {problem}") from None
    model = make_base(config, Path(args.out), bars, args.resume)
    print(f"saved {model.num_parameters():,} parameters in {args.out}")


def ladder_command(args: argparse.Namespace) -> None:
    """Every rung anew, or those named; then what each has learned."""
    rows = climb(Path(args.out), args.sizes or list(LADDER), bars, args.resume)
    print("size, parameters, loss (nats per token), truthful bare, truthful prompted")
    for row in rows:
        print("  ".join(ladder_row(row)))


def check_seed(seed: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"--seed must lie between 0 and {MAX_SEED}")


def data_command(args: argparse.Namespace) -> None:
    """The data in tables, and on request as files."""
    check_seed(args.seed)
    if args.out and Path(args.out).exists():
        raise DataError(f"{args.out}: is there already; choose another --out")
    for table in tables(args.seed):
        print(table, flush=True)
    if args.out:
        for path in write_datasets(Path(args.out), args.seed):
            print(path)


def chat_command(args: argparse.Namespace) -> None:
    """A conversation; the oldest turns are forgotten where the context is full."""
    if not 0 <= args.temperature < math.inf or args.tokens < 1:
        raise DataError("--temperature must be at least 0, and --tokens at least 1")
    check_seed(args.seed)
    folder = Path(args.model)
    for stage in (*reversed(POLICIES), "sft"):  # of a whole run, the last policy
        if not (folder / CARD).is_file() and (folder / stage / CARD).is_file():
            folder = folder / stage
    if (folder / CARD).is_file():
        role = read_card(folder)["role"]
        if role in SCALAR_ROLES:
            raise DataError(f"{folder}: is a {role} model; it gives scores, not answers")
        backbone = open_checkpoint(folder, role)
    else:
        backbone, role = load_backbone(args.model), BASE
    encoder = Encoder(backbone.tokenizer, backbone.context_length, backbone.device)
    generator = torch.Generator(backbone.device).manual_seed(args.seed)
    spoken_to = folder if role != BASE else args.model
    print(f"talking to {spoken_to} ({role}); an empty line ends it")
    history: list[str] = []
    while text := _ask():
        ids = encoder.prompt(Prompt(text, history=tuple(history)), room=args.tokens)
        batch = encoder.prompts([ids])
        rollout = sample(backbone, role, batch, args.tokens, generator, args.temperature)
        answer = encoder.text(rollout.response_ids, rollout.response_mask)[0]
        history += [text, answer]
        print(f"{role}> {answer}")


def _ask() -> str:
    try:
        return input("you> ").strip()
    except EOFError:
        return ""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; bad input is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # a model may say what a Windows console cannot
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    args = build_parser().parse_args(arguments)
    try:
        if args.command == "fetch":
            print(fetch_smollm2())
        elif args.command in STAGES:
            with parallel.session():
                stage_command(args)
        else:
            commands = {
                "pretrain": pretrain_command,
                "ladder": ladder_command,
                "data": data_command,
                "chat": chat_command,
                "export": lambda args: print(*export(args.source, args.out), sep="\n"),
                "memory": lambda args: memory_command(args, settings_from(args)),
                "study": study_command,
                "doctor": doctor_command,
            }
            commands[args.command](args)
    except (DataError, FetchError) as error:
        print(f"minirlhf: {error}", file=sys.stderr)
        return BAD_INPUT
    except NotFinite as error:
        print(f"minirlhf: stopped: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"minirlhf: {error.filename or 'disk'}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        which = f"--name {args.name}" if "name" in args else f"--out {args.out}"
        how = f"; go on with: minirlhf {args.command} {which} --resume" if "resume" in args else ""
        print(f"\nminirlhf: stopped; what was finished is kept{how}", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
