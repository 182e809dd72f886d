"""The sections of the configuration: every key, its type and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from silofl.config.inner_tables import KeepBest, Schedule, StopWhen, named
from silofl.config.neighbours import Neighbours
from silofl.config.section import Section
from silofl.constrained import Decay, Finite, Fraction, PositiveFloat, PositiveInt
from silofl.privacy.places import PLACES


class RunConfig(Section):
    """[run]: how long, from which seed, and what is shown."""

    name: str = ""
    """Names the run directory; the file's own name when empty."""
    dir: str = ""
    """Run directory; `runs/<name>` when empty. May differ from rank to rank. `{silo}` is the silo's number,
    here and in every other path."""
    rounds: PositiveInt = 20
    """How often silos train and add up what they learnt. More of them may be set for a resume."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """What all random choices but keys and noise follow from: the first model, batches, samples held out."""
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Probability with which each silo takes part in a round; those that do not train nothing in it, and help
    to open the sum. One silo takes part at least, and as many as the secure sum asks for."""
    silos_per_round: PositiveInt | None = None
    """So many silos take part in each round instead, drawn without replacement."""
    evaluate_every: PositiveInt = 1
    """Rounds between evaluations; the last round is always evaluated."""
    stop_when: StopWhen | None = None
    """End the run early, such as {metric = "auc", patience = 5}: when so many evaluations one after the other
    have not made the federation's metric better by more than `min_delta`. Which of more and less is better
    says `mode`, "max" or "min"; unset, less where the name ends in "loss" or "error"."""
    keep_best: KeepBest | None = None
    """`model.safetensors` is that of the round with the best value of this metric, such as "auc", or
    {metric = "f1", mode = "max"}; unset, that of the last round, which checkpoints have in either case."""
    display: Literal["auto", "live", "plain", "none"] = "auto"
    """What is shown meanwhile: a table that is drawn anew (`live`), a line a round (`plain`), or nothing;
    `auto` is the table on a terminal and in a notebook, else lines."""
    loggers: list[str] | None = None
    """Where the numbers of rounds go beside the run directory's own files: `tensorboard`, `mlflow` or
    `wandb`, any of them; unset, TensorBoard's event files where it is installed. The silo that leads writes
    them, below its run directory and nowhere else, unless variables of MLflow or W&B say so."""
    share_silo_metrics: bool | None = None
    """Show every silo's own loss and accuracy to all; false shares only the federation's means. Unset, true
    without [privacy] and false with it."""

    @field_validator("keep_best", mode="before")
    @classmethod
    def _best_of_metric(cls, value: Any) -> Any:
        return named(value, "metric")


class TaskConfig(Section):
    """[task]: the model and the problem."""

    name: str = "digits"
    """A built-in task: `digits`, `breast_cancer`, `synthetic`, or `files` for files of your own."""
    factory: str = ""
    """`package.module:Class` of a user's own task; replaces `name`."""
    options: dict[str, Any] = {}
    """Keyword arguments of the factory."""
    weights: str = ""
    """A safetensors file that the model begins with, such as a run's `model.safetensors`; one for all."""
    head: str = "classification"
    """`files`: what is learnt: `classification` (one class), `regression` (a number), `multilabel` (columns
    of 0 and 1) or `survival` (time to an event, in intervals)."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """`files`: how often a record of each class, or with each label, counts in the loss, such as
    {ill = 5, well = 1}; "balanced": by how many training records all silos have of each."""
    intervals: PositiveInt | list[PositiveFloat] | None = None
    """`files`, `survival`: ends of the intervals of time, such as [90, 180, 365], or how many there are to
    be: with equally many events in each, of all silos' training records together."""
    model: Literal["mlp", "cnn", "linear"] = "mlp"
    """Of built-in tasks: fully connected layers, two convolutions (of images), or one linear layer."""
    hidden: list[PositiveInt] = [64]
    """Widths of the MLP's hidden layers."""
    classes: Annotated[int, Field(ge=2)] | None = None
    """`files`: number of classes where labels are the integers 0 to classes - 1."""
    labels: list[str] | None = None
    """`files`: the label values in class order, the same at every silo, where labels are words."""
    image_size: list[PositiveInt] = [32, 32]
    """`files`: images of folders are resized to [height, width]."""
    channels: Literal[1, 3] | None = None
    """`files`: images are read as greys (1) or colours (3); unset, as they are stored, all alike."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """`synthetic(alpha, beta)`: how much local models differ (Li et al. 2020, section 5.1)."""
    beta: Annotated[float, Field(ge=0)] = 1.0
    """`synthetic(alpha, beta)`: how much local features differ."""


class DataConfig(Section):
    """[data]: where a silo's samples come from, how they are scaled, and how built-in data is dealt out."""

    path: str = ""
    """`files`: this silo's file or folder; `{silo}` is its number."""
    decimal: Literal[".", ","] = "."
    """`files`: the sign before decimals in this silo's CSV; signs between thousands are refused."""
    target: str | list[str] = "label"
    """`files`: the label's column (CSV, Parquet) or array (NPZ: `target` or `y`); a list of columns where
    `task.head` takes several: `multilabel` each label's, `survival` the time's and the event's."""
    id: str = ""
    """`files`: the column that numbers records, such as "patient_no". It is no feature, and shown nowhere."""
    drop: list[str] = []
    """`files`: columns that are passed over; a silo that has none of such a name goes without."""
    columns: list[str] = []
    """`files`: the columns that are features; unset, all that are not named by `target`, `id`,
    `owner_column` or `drop`."""
    categorical: dict[str, list[str] | Literal["union"]] = {}
    """`files`: columns of categories, by name, with the list of them, such as {sex = ["f", "m"]}: a feature,
    0 or 1, for each. "missing" in the list takes empty cells, "other" all that is not listed. "union":
    those that `least_count` training records of some silo have, added up at the start so that no silo shows
    which it has, with "missing" and "other". A list of names, such as ["sex"], means "union" for each."""
    impute: dict[str, Finite | Literal["mean"]] = {}
    """`files`: what stands for missing numbers, by column: a constant, such as {age = 50}, or "mean", that of
    all silos' training records together; "*" of all columns not named. "mean" means {"*" = "mean"}."""
    flag_missing: list[str] = []
    """`files`: columns of `impute` that get a feature beside them, 1 where the value is missing, else 0."""
    least_count: PositiveInt = 5
    """Records that a category of "union" needs in a silo to be told."""
    units: dict[str, str] = {}
    """`files`: the units of this silo's columns, by name, such as {glucose = "mmol/l"}; where silos differ,
    a run is refused."""
    partition: Literal["iid", "dirichlet", "shards", "quantity", "features"] = "iid"
    """How built-in data is dealt to silos: evenly, or unlike in classes (`dirichlet`, `shards`), in sizes
    (`quantity`) or in what samples are like (`features`)."""
    alpha: PositiveFloat = 0.5
    """Concentration of the Dirichlet distribution (dirichlet, quantity, features): small is skewed."""
    shards_per_silo: PositiveInt = 2
    """`shards`: pieces of the data, sorted by class, that each silo is dealt."""
    test_fraction: Fraction = 0.2
    """Part of the samples that is held out for evaluation, about: each is, or not, by its own values."""
    center: dict[str, Finite] = {}
    """`files`: what is subtracted from columns, by name, such as {age = 50}: constants that are publicly
    known, such as a laboratory's reference values, and the same at every silo. 0 of columns not named. The
    target of `regression` may be among them: it is predicted in its own units all the same."""
    scale: dict[str, PositiveFloat] = {}
    """`files`: by what columns are divided then, likewise; 1 of columns not named."""
    standardize: Literal[False, "federated"] = False
    """`files`: subtract the mean and divide by the standard deviation of all silos' training records
    together, added up at the start as updates are; under [privacy] of values within `bounds`, with noise. The
    target of `regression`, too, unless it has constants, or [privacy] is set. `true` means the same."""
    bounds: dict[str, list[Finite]] = {}
    """`files`: publicly known bounds of columns, by name, such as {age = [0, 120]}; "*" of all columns not
    named. Under [privacy] `standardize` clips values to them in its sums, and needs those of every column."""
    owner_column: str = ""
    """`files`: the column (CSV, Parquet) or array (NPZ: `owner_column` or `owner`) that says whose a record
    is. It is no feature. All records of one person are trained on, or all are held out."""
    accept_changes: bool = False
    """Resume a run, or take a silo back, on other samples than its rounds so far; never under [privacy]."""

    @field_validator("bounds")
    @classmethod
    def _low_below_high(cls, value: dict[str, list[float]]) -> dict[str, list[float]]:
        for name, pair in value.items():
            if len(pair) != 2 or pair[1] / 2 - pair[0] / 2 <= 0:
                raise ValueError(f"data.bounds.{name} = {pair} is not [low, high], with low below high")
        return value

    @field_validator("categorical", mode="before")
    @classmethod
    def _by_all_silos_together(cls, value: Any) -> Any:
        return dict.fromkeys(value, "union") if isinstance(value, list) else value

    @field_validator("categorical")
    @classmethod
    def _each_once(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, categories in value.items():
            if categories != "union" and (not categories or len(set(categories)) < len(categories)):
                raise ValueError(f"data.categorical.{name} = {categories} must name categories, each once")
        return value

    @field_validator("impute", mode="before")
    @classmethod
    def _of_all_columns(cls, value: Any) -> Any:
        return {"*": "mean"} if value == "mean" else value

    @property
    def agreed(self) -> bool:
        """Whether all silos have to agree, at the start, on what is done to columns."""
        return (
            bool(self.standardize) or "mean" in self.impute.values() or "union" in self.categorical.values()
        )

    @field_validator("standardize", mode="before")
    @classmethod
    def _by_all_silos(cls, value: Any) -> Any:
        return "federated" if value is True else value


class TrainConfig(Section):
    """[train]: one silo's local work in a round."""

    epochs: PositiveInt | None = None
    """Passes over a silo's samples in a round; one, where `steps` and `seconds` are unset, too."""
    steps: PositiveInt | None = None
    """Steps of the optimizer in a round, in place of whole epochs."""
    seconds: PositiveFloat | None = None
    """Seconds of local steps in a round, so that fast silos take more of them: one at least, and at most
    `epochs` or `steps` where those are set. `strategy.name = "fednova"` weighs unequal work. How far a silo
    gets is not repeated by a resume."""
    full_batch: bool = False
    """Every step sees all local samples at once; `steps` of them, one when unset."""
    batch_size: PositiveInt = 32
    """Samples of a step."""
    drop_last: bool = False
    """Leave out an epoch's last batch where it is smaller than the others, as batch normalization asks for
    where it has one sample; a silo with fewer samples than `batch_size` keeps its only batch."""
    eval_batch_size: PositiveInt | None = None
    """Held-out samples that are looked at together; `batch_size` when unset."""
    optimizer: str = "SGD"
    """Any class of torch.optim by name. `Muon` steps hidden matrices, and AdamW all else, with the same `lr`:
    embeddings, the last layer, and what is no matrix."""
    lr: PositiveFloat = 0.05
    """Learning rate of local steps; the server's is `strategy.lr`."""
    schedule: Schedule = Schedule()
    """By what learning rates of local steps are multiplied in each round: "constant", "cosine" and "linear"
    (down to 0 behind the last round), "step" (`gamma` = 0.1 every third of the rounds) or "one-cycle", by
    torch's schedulers; or a table, such as {name = "cosine", warm_up = 5}, also with `rounds`, by default
    `run.rounds`, and `options`, torch's own arguments."""
    momentum: Decay | None = None
    """Momentum of the optimizer, where it has one; unset, its own default."""
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    """Weight decay of the optimizer, where it has one; unset, its own default."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the optimizer. Of `Muon` also `matrices`, patterns of the names of those
    that it steps, and `adamw`, a table of AdamW's arguments."""
    keep_optimizer: bool = False
    """Carry the optimizer's state from round to round instead of starting afresh."""
    clip_norm: PositiveFloat | None = None
    """Largest L2 norm of a step's gradient."""
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"
    """Type of the parameters. Updates travel as float64 for float64 models, as float32 otherwise."""
    precision: Literal["full", "bfloat16", "float16"] = "full"
    """Mixed precision: the type of the forward and backward pass under autocast."""
    batch_norm: Literal["averaged", "local", "recomputed"] = "averaged"
    """Running statistics of batch normalization: the mean of the silos', each silo's own, or the silo's own
    found anew before each evaluation by a pass over its training samples with the new global parameters."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:<n>`; `auto` takes the GPU of the rank's place on its node."""
    ranks_per_silo: PositiveInt = 1
    """Processes that train together in a silo, each on its part of every batch and with a GPU or cores of its
    own: a batch is as long as with one, and the silo's loss has to be a mean over samples."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule_of_name(cls, value: Any) -> Any:
        return named(value, "name")

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("train.epochs and train.steps are both set; keep one")
        if self.full_batch and self.epochs is not None:
            raise ValueError("train.full_batch counts in train.steps; remove train.epochs")
        return self


class SecureConfig(Section):
    """[secure]: how updates are added up so that nobody sees one. A key that the protocol does not read is
    refused where it is set."""

    protocol: str = "auto"
    """`secagg` (masks of pairs, double, with shares of the keys), `additive` (shares to a committee), `plain`
    (in the clear), or `auto`: `secagg` for three silos or more; below that no sum hides anything and it is
    `plain`."""
    bits: Literal[8, 16, 32] = 16
    """Bits of a ring word on the wire, for every parameter."""
    range: PositiveFloat | None = None
    """Largest magnitude of an update's values; beyond it they are clipped. Unset, the silos find the smallest
    power of two that holds everybody's, from a masked sum that shows this and nothing else."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """How values become integers of `bits`: to the nearest, or at random so that means are right."""
    prg: Literal["auto", "aes-128-ctr", "aes-256-ctr", "chacha20"] = "auto"
    """Generator of the masks; `auto` is AES-128 where every rank's processor has AES units, else ChaCha20."""
    threshold: PositiveInt | None = None
    """How many silos open a sum: more than half of all. Unset, n/2 + 1 for an even number of silos, (n + 3)/2
    for an odd one from 5 on, and 2 of 3; `silofl check` says what that bears."""
    allow_two: bool = False
    """Permit a secure sum over two silos, each of which learns the other's update from it."""
    recompute: Annotated[int, Field(ge=0, le=2)] = 1
    """`secagg`: how many other silos recompute the step that a silo takes as the server of its slice; where
    one differs, the run ends by name. Each costs a server's work once more: unmask, step, compare."""
    committee: Annotated[int, Field(ge=2)] = 2
    """`additive`: how many silos hold the shares; all but one of them together learn nothing."""
    identity: str = ""
    """This institution's private key, from `silofl keygen`; one that this run makes and keeps when empty."""
    passphrase_file: str = ""
    """File whose first line opens the private key, where it is encrypted."""
    roster: str = ""
    """The institutions' public keys, from `silofl roster`; exchanged at the first start when empty."""


if TYPE_CHECKING:
    PlaceName = str
else:
    PlaceName = Literal[tuple(PLACES)]


class PrivacyConfig(Section):
    """[privacy]: how little the trained model may tell of its data, as (epsilon, delta)."""

    unit: Literal["none", "example", "patient", "client", "silo"] = "none"
    """What is protected: one record of a silo's training data (`example`), all records of one person there
    (`patient`, by `data.owner_column`), all of one of its clients (`client`, by [clients]), or all its data
    (`silo`)."""
    neighbours: Neighbours = "replace-special"
    """Which data sets are not told apart: a record is replaced by one that contributes nothing, and how
    many there are is public (`replace-special`); it is there or not (`add-remove`, which needs `records`);
    it is replaced by any other, which is twice as far (`replace-one`). For `patient`, read "all records of a
    person", and for `silo`, "a silo's data"."""
    records: PositiveInt | None = None
    """`add-remove`: how many training records (or persons, clients) all silos are expected to have
    together, a public number that makes means of sums; the true one is told to nobody."""
    records_per_patient: PositiveInt | None = None
    """`patient`: of a person with more records so many are drawn in each step; unset, all are taken."""
    institutions_per_patient: PositiveInt = 1
    """`patient`: in how many silos one person may have records. A person in more counts as several."""
    place: PlaceName = "distributed"
    """Where noise enters: each silo adds all of it alone (`local`); each adds a share inside the secure sum,
    so that only the noisy sum ever exists (`distributed`); the ranks that serve the sum, which are trusted,
    add it (`central`)."""
    mechanism: Literal["discrete-gaussian", "skellam"] = "discrete-gaussian"
    """Distribution of the noise, which is of integers; sums of Skellam noise are Skellam noise exactly."""
    metrics: Literal["none", "exact"] = "none"
    """Held-out records are not in the claim: nothing is evaluated (`none`), or metrics are shown without
    noise (`exact`)."""
    clip_norm: PositiveFloat = 1.0
    """Largest L2 norm of an example's gradient, of the mean of a person's, or of a client's or a silo's
    update."""
    clip_quantile: Fraction | None = None
    """`silo`: the clipping norm follows this quantile of the updates' norms, from `clip_norm` on."""
    quantile_noise_multiplier: PositiveFloat = 4.0
    """Noise on the count of silos within the norm, over its sensitivity; it is accounted for, too."""
    standardize_noise_multiplier: PositiveFloat = 8.0
    """Noise on the sums of `data.standardize`, over their sensitivity, once in a run; it is accounted for."""
    noise_multiplier: PositiveFloat | None = None
    """Standard deviation of the noise over the sensitivity of the sum. Set this or `target_epsilon`."""
    target_epsilon: PositiveFloat | None = None
    """The least noise with which the whole run ends at or below this epsilon."""
    max_epsilon: PositiveFloat | None = None
    """The run ends before a round that would exceed it."""
    delta: Fraction = 1e-5
    """Probability with which epsilon may fail to hold; below one over the number of records, of persons, or
    of silos."""
    budget_dir: str = ""
    """A folder of this silo's own in which a file counts what all runs release of its data."""
    budget_name: str = ""
    """The name of that data there; without one, all runs with this folder count together."""
    budget_epsilon: PositiveFloat | None = None
    """No run goes on that would let all of them together exceed this; unset, they are counted alone."""
    budget_delta: Fraction | None = None
    """At which they are added up; `delta` when unset."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """`example`, `patient`: with this probability each record, or each person, takes part in a step (Poisson
    sampling); `client`: each client in a round."""
    bands: Annotated[int, Field(ge=1, le=128)] = 1
    """`distributed`: noise of a round takes off that of the `bands` - 1 rounds before, and a record may take
    part in every `bands`-th round alone, with `bands` times the probability. 1: independent noise."""
    clipping: Literal["ghost", "hooks", "functorch"] = "ghost"
    """`example`, `patient`: how Opacus clips: by norms alone, or by every example's gradient in memory. A
    person with several records has one gradient, in memory alone, whichever it is."""
    accountant: Literal["pld", "rdp"] = "pld"
    """Privacy loss distributions, or Renyi orders where those do not apply (always for Skellam)."""
    colluding: Annotated[int, Field(ge=0)] = 1
    """`distributed`: how many silos' noise an observer may know. Each silo knows its own, so 1 protects from
    each other silo."""
    dropouts: Annotated[int, Field(ge=0)] = 0
    """`distributed`: how many silos may be lost in a round with the noise still enough."""
    rotate: bool | None = None
    """Spread each vector over all coordinates by a random rotation; unset, for rings below 32 bits."""

    @property
    def samples(self) -> bool:
        """Whether sums are of clipped gradients of sampled records, or persons, and not of updates."""
        return self.unit in ("example", "patient")

    @property
    def sampled(self) -> bool:
        """Whether what is protected is sampled within each silo: records, persons or clients."""
        return self.samples or self.unit == "client"


class CheckpointConfig(Section):
    """[checkpoint]: what is kept for a resume."""

    every: Annotated[int, Field(ge=0)] = 1
    """Rounds between checkpoints; 0 keeps none. The last round is always kept."""
    keep: Annotated[int, Field(ge=2)] = 3
    """How many rounds stay on disk; two at least, so that a damaged newest one has a predecessor."""
    buddy: bool = False
    """Each silo's file also lies, encrypted, with the next silo, for when a silo loses its run directory."""
    key_file: str = ""
    """`buddy`: where this silo's own key lies, made when missing. Unset, it is
    `silofl/checkpoint-silo-{silo}.key` in `$XDG_STATE_HOME`, or in `~/.local/state`."""
