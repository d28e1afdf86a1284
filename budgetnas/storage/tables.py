"""Our own tables, separate from Optuna's.

Times are seconds since 1970-01-01 UTC, independent of any database's time zone. Accuracies are shares of 1.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION: Final = 4
metadata = MetaData()

schema = Table(
    "budgetnas_schema",
    metadata,
    Column("version", Integer, primary_key=True),
    Column("storage", String(32), nullable=False),  # a random name for files outside the database
)

specifications = Table(
    "specifications",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("digest", String(16), nullable=False),
    Column("specification", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

architectures = Table(
    "architectures",
    metadata,
    Column("digest", String(16), primary_key=True),
    Column("architecture", Text, nullable=False),
    Column("params", BigInteger, nullable=False),
    Column("macs", BigInteger, nullable=False),
    Column("activations", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(200), index=True),
    Column("trial", Integer),
    Column("role", String(16), nullable=False),
    Column("label", String(200), nullable=False),
    Column("architecture", ForeignKey("architectures.digest"), nullable=False),
    Column("recipe_digest", String(16), nullable=False),
    Column("data_digest", String(16), nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("environment", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("epochs_asked", Integer, nullable=False),
    Column("epochs_done", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("weights_sha256", String(64)),
    Index("runs_key", "architecture", "recipe_digest", "data_digest", "seed", "role"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("train_loss", Float, nullable=False),
    Column("train_accuracy", Float, nullable=False),
    Column("eval_loss", Float),
    Column("eval_accuracy", Float),
    Column("learning_rate", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("eval_balanced_accuracy", Float),
    Column("eval_correct", Text),
)

class_counts = Table(
    "class_counts",
    metadata,
    Column("data", String(16), primary_key=True),
    Column("split", String(16), primary_key=True),
    Column("classes", Text, nullable=False),
    Column("images", Text, nullable=False),
)

rejections = Table(
    "rejections",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(200), nullable=False, index=True),
    Column("trial", Integer),
    Column("origin", String(64), nullable=False),
    Column("duplicate", Boolean, nullable=False),
    Column("architecture", ForeignKey("architectures.digest"), nullable=False),
    Column("max_params", BigInteger, nullable=False),
    Column("overshoot", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
)

weights = Table(
    "weights",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("tensors", LargeBinary, nullable=False),
)

finals = Table(
    "finals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(200), nullable=False, index=True),
    Column("plan", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("winner", ForeignKey("runs.id")),
    Column("test_images", Integer),
    Column("read_at", Float),
)

test_readings = Table(
    "test_readings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("final", ForeignKey("finals.id"), index=True),
    Column("run", ForeignKey("runs.id"), nullable=False, index=True),
    Column("epoch", Integer, nullable=False),
    Column("accuracy", Float, nullable=False),
    Column("balanced_accuracy", Float),
    Column("correct", Text),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("owner", String(40), primary_key=True),
    Column("study", String(200), index=True),
    Column("trial", Integer),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), index=True),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process_started_at", Float, nullable=False),
    Column("grace", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)

losses = Table(
    "losses",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", String(200), index=True),
    Column("trial", Integer),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), index=True),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("epochs_before", Integer, nullable=False),
    Column("environment", Text, nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("run", ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("file", String(200), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("at", Float, nullable=False),
)

queue = Table(  # no new version of the tables: it is created where it is missing, and only newer programs use it
    "queue",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("data", Text),
    Column("data_dir", Text),
    Column("seed", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
)

goals = Table(
    "goals",
    metadata,
    Column("study", String(200), primary_key=True),
    Column("trials", Integer, nullable=False),
    Column("sampler", String(64), nullable=False),
    Column("at", Float, nullable=False),
)
