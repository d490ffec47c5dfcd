"""A plan: what each table takes, each thing once, light and the same every time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import select_layers
from vrbench.reproduce.build import ExperimentRequest, build
from vrbench.reproduce.experiments import EXPERIMENTS
from vrbench.reproduce.families import FAMILIES
from vrbench.reproduce.plan import Plan, PlanStep, load_plan, merge_with_stored, step_digests
from vrbench.reproduce.plan_builder import step_minutes, wall_minutes
from vrbench.training import load

PUBLISHED = Path(__file__).parents[2] / "leaderboards" / "reproduce"


def plan(tables: str = "all", family: str = "pocket", seeds: int = 1, **more: object) -> Plan:
    return build(ExperimentRequest(tables, family, seeds, **more))  # type: ignore[arg-type]


def steps(of: Plan, kind: str) -> dict[str, PlanStep]:
    return {step.name: step for step in of.steps if step.kind == kind}


def rows(of: Plan, table: str) -> list[str]:
    return list(dict.fromkeys(entry.row for entry in of.entries if entry.table == table))


@pytest.fixture(scope="module")
def whole() -> Plan:
    return plan()


class TestWhole:
    def test_it_is_the_same_every_time(self, whole: Plan) -> None:
        assert plan() == whole

    @pytest.mark.parametrize("family", FAMILIES)
    def test_every_step_comes_after_what_it_needs(self, family: str) -> None:
        seen: set[str] = set()
        for step in plan(family=family, seeds=2).steps:
            assert seen.issuperset(step.needs) and step.name not in seen
            seen.add(step.name)

    def test_no_two_steps_do_the_same(self, whole: Plan) -> None:
        contents = Counter(str((step.kind, sorted(step.arguments.items()))) for step in whole.steps)
        assert set(contents.values()) == {1}

    def test_every_argument_in_braces_is_needed_and_there(self, whole: Plan) -> None:
        for step in whole.steps:
            named = {v[1:-1] for v in step.arguments.values() if isinstance(v, str) and v.startswith("{")}
            assert named == set(step.needs)

    def test_every_entry_stands_on_runs_of_its_seed(self) -> None:
        of = plan(seeds=2)
        runs = steps(of, "run")
        for entry in of.entries:
            assert {entry.run, entry.baseline} <= set(runs)
            assert entry.baseline == f"run-full-s{entry.seed}"
            assert entry.run.endswith(f"-s{entry.seed}") or entry.run == "run-base"
        assert len({(e.table, e.row, e.series, e.seed) for e in of.entries}) == len(of.entries)

    def test_every_run_is_in_a_table(self, whole: Plan) -> None:
        assert set(steps(whole, "run")) == {entry.run for entry in whole.entries}

    def test_a_second_seed_doubles_what_depends_on_it(self, whole: Plan) -> None:
        twice = plan(seeds=2)
        assert len(steps(twice, "profile")) == 1
        shared = {"run-base", "profile"} | {name for name in steps(whole, "prune") if "base" in name}
        assert len(twice.steps) == 2 * len(whole.steps) - len(shared)

    def test_tables_share_what_is_alike(self, whole: Plan) -> None:
        by_table = {table: plan(table) for table in EXPERIMENTS}
        assert {step.name for one in by_table.values() for step in one.steps} == {step.name for step in whole.steps}
        users = [name for name, one in by_table.items() if "train-sparse-uniform-8-s0" in steps(one, "train")]
        assert users == ["strategies", "layers", "data", "text", "pruning"]
        assert len(steps(plan("layers,text,data"), "train")) == 7 + 4


class TestTables:
    def test_strategies(self, whole: Plan) -> None:
        assert rows(whole, "strategies") == [
            "full", "sparse-uniform", "bottom", "middle-low", "middle-high", "top", "hybrid", "random", "attention",
            "change", "block-influence", "multimodal-block-influence", "angular", "angular-weights", "fisher",
            "lora-norm", "layer-sampling", "lisa", "lora-attention", "weights", "weights-sparse-uniform",
        ]  # fmt: skip

    def test_lisa_is_the_paper_s_and_layer_sampling_keeps_the_steps_that_were_published(self, whole: Plan) -> None:
        trained = steps(whole, "train")
        lisa, sampling = trained["train-lisa-with-embeddings-s0"], trained["train-lisa-s0"]
        assert (lisa.arguments["tune.sampling"], sampling.arguments["tune.sampling"]) == ("lisa:8", 8)
        assert lisa.minutes == sampling.minutes
        published = load_plan(PUBLISHED / "pocket")
        assert step_digests(published).items() <= step_digests(plan(seeds=3)).items()
        assert (
            merge_with_stored(plan(seeds=3), PUBLISHED / "pocket").entries[: len(published.entries)]
            == published.entries
        )

    def test_strategies_are_of_eight_layers_by_heuristic_or_from_the_full_model(self, whole: Plan) -> None:
        trained = steps(whole, "train")
        for name in ("sparse-uniform", "bottom", "middle-low", "middle-high", "top", "hybrid", "random"):
            assert len(select_layers(str(trained[f"train-{name}-8-s0"].arguments["tune.layers"]), 30)) == 8
        scored = steps(whole, "layers")["layers-angular-s0"]
        assert scored.arguments["ckpt"] == "{train-full-s0}" and scored.arguments["n"] == 8
        assert trained["train-angular-8-s0"].arguments["tune.layers"] == "{layers-angular-s0}"

    @pytest.mark.parametrize("family", ["llava-1.5-7b", "bunny-llama-3-8b"])
    def test_the_paper_s_families_take_the_region_that_is_published(self, family: str) -> None:
        of, recipe = plan(family=family), load(f"{family}-region")
        layers = {name: step.arguments.get("tune.layers") for name, step in steps(of, "train").items()}
        assert recipe.tune is not None and layers["train-sparse-uniform-8-s0"] == recipe.tune.layers
        assert layers["train-region-data-25-s0"] == recipe.tune.layers
        assert layers["train-sparse-uniform-4-s0"] == "sparse-uniform:4"
        assert "sparse-uniform:8" not in {v for k, v in layers.items() if "removal" not in k}
        assert {e.run for e in of.entries if e.row == "sparse-uniform"} == {"run-sparse-uniform-8-s0"}

    def test_random_layers_are_drawn_anew_for_each_seed(self) -> None:
        trained = steps(plan("strategies", seeds=2), "train")
        drawn = {select_layers(str(trained[f"train-random-8-s{seed}"].arguments["tune.layers"]), 30) for seed in (0, 1)}
        assert len(drawn) == 2

    def test_layers(self, whole: Plan) -> None:
        points = [(e.row, e.x, e.run) for e in whole.entries if e.table == "layers"]
        assert [x for _, x, _ in points] == [1, 2, 4, 6, 8, 16, 30]
        assert points[0] == ("1 layer", 1, "run-sparse-uniform-1-s0")
        assert points[-1] == ("all layers", 30, "run-full-s0")

    def test_data(self, whole: Plan) -> None:
        trained = steps(whole, "train")
        assert trained["train-region-data-25-s0"].arguments["data.share"] == 0.25
        assert trained["train-full-data-10-s0"].arguments["data.share"] == 0.1
        assert "data.share" not in trained["train-full-s0"].arguments
        assert [e.x for e in whole.entries if e.table == "data"] == [100, 25, 10] * 2

    def test_text_is_measured_on_the_base_without_pictures(self, whole: Plan) -> None:
        base = steps(whole, "run")["run-base"].arguments
        assert base["ckpt"] == "pocket/base" and set(str(base["tasks"]).split(",")) == {
            "pocket_facts", "pocket_grammar", "pocket_pydoc",
        }  # fmt: skip
        assert rows(whole, "text") == ["full", "region", "base"]
        assert rows(plan("text", tasks="pocket_mme"), "text") == ["full", "region"]

    def test_pruning_curves_come_from_one_measurement_each(self, whole: Plan) -> None:
        orders = [name for name in steps(whole, "layers") if name.startswith("order-")]
        assert len(orders) == 2 * 4 + 1
        assert all(steps(whole, "layers")[name].arguments["most"] == 8 for name in orders)
        region = steps(whole, "prune")["prune-region-loss-4-s0"]
        assert region.needs == ("train-sparse-uniform-8-s0", "order-region-loss-s0")
        assert region.arguments["outside_region"] is True
        assert steps(whole, "prune")["prune-full-loss-4-s0"].arguments["outside_region"] is False
        lines = {e.series: [] for e in whole.entries if e.table == "pruning"}
        for entry in whole.entries:
            if entry.table == "pruning":
                lines[entry.series].append(entry.x)
        assert lines["region, by loss"] == [0, 1, 2, 4, 6, 8]
        assert lines["full, by loss, healed"] == [0, 2, 4, 8]

    def test_healing_starts_from_the_pruned_checkpoint(self, whole: Plan) -> None:
        healed = steps(whole, "train")["heal-region-loss-4-s0"].arguments
        assert healed["base"] == "{prune-region-loss-4-s0}"
        assert (healed["recipe"], healed["stage"]) == ("pocket-heal", "heal")
        assert "tune.layers" not in healed and "tune.steps" not in healed

    def test_restoring(self, whole: Plan) -> None:
        told = {s.arguments["layers"] for s in steps(whole, "restore").values()}
        assert told == {f"{name}:{n}" for name in ("sparse-uniform", "middle", "top") for n in (4, 8)}
        assert {s.arguments["from"] for s in steps(whole, "restore").values()} == {"pocket/base"}


class TestSettings:
    def test_short_keys_are_recipe_keys_for_all_trainings(self) -> None:
        of = plan("layers", overrides={"steps": "600", "batch": "32", "tune.lr": "0.002"})
        assert of.overrides == {"tune.steps": "600", "tune.batch": "32", "tune.lr": "0.002"}
        for step in steps(of, "train").values():
            assert step.arguments["tune.lr"] == "0.002" and step.arguments["tune.batch"] == "32"

    def test_no_more_pictures_are_drawn_than_the_steps_need(self) -> None:
        of = plan("layers", overrides={"steps": "100", "batch": "32"})
        assert {s.arguments["data.scenes"] for s in steps(of, "train").values()} == {3200}
        of = plan("layers", overrides={"steps": "100", "scenes": "500"})
        assert {s.arguments["data.scenes"] for s in steps(of, "train").values()} == {"500"}

    def test_a_trial_is_small_in_everything(self) -> None:
        of = plan("all", overrides={"steps": "20"}, limit=20)
        assert of.is_trial and not plan("layers", overrides={"steps": "200"}).is_trial
        training = steps(of, "train")["train-full-s0"].arguments
        assert (training["tune.steps"], training["tune.batch"], training["data.scenes"]) == ("20", 2, 64)
        assert training["dtype"] == "float32"
        healing = steps(of, "train")["heal-full-loss-2-s0"].arguments
        assert healing["tune.steps"] == "20" and healing["tune.batch"] == 2
        assert {s.arguments["pictures"] for s in steps(of, "layers").values()} == {4}
        assert {s.arguments["limit"] for s in steps(of, "run").values()} == {20}

    def test_limit_zero_is_all_items(self) -> None:
        of = plan("layers", limit=0)
        assert of.limit is None and all("limit" not in s.arguments for s in steps(of, "run").values())

    def test_a_base_of_one_s_own_is_trained_measured_and_restored_from(self) -> None:
        of = plan("all", family="llava-1.5-7b", overrides={"base": "checkpoints/base"})
        assert steps(of, "run")["run-base"].arguments["ckpt"] == "checkpoints/base"
        assert steps(of, "restore")["restore-top-4-s0"].arguments["from"] == "checkpoints/base"
        assert steps(of, "train")["train-full-s0"].arguments["base"] == "checkpoints/base"
        assert steps(of, "train")["heal-full-loss-4-s0"].arguments["base"] == "{prune-full-loss-4-s0}"
        assert steps(of, "train")["train-full-after-removal-4-s0"].arguments["base"] == "{prune-base-angular-4}"

    def test_all_faults_at_once(self) -> None:
        wrong = {"steps": "many", "tune.layers": "all", "seed": "3"}
        with pytest.raises(MultipleErrors) as told:
            plan("strategeis,layers", "poket", 0, overrides=wrong, limit=-1)
        assert told.value.messages == (
            "no table 'strategeis'; did you mean 'strategies'?",
            "--set tune.layers: the tables decide it",
            "--set seed: the tables decide it",
            "--set tune.steps is 'many'; it must be a number of at least 1",
            "seeds is 0; it must be at least 1",
            "limit is -1; it must be at least 1, or 0 for all items",
            "no family 'poket'; did you mean 'pocket'?",
        )

    def test_unknown_tasks(self) -> None:
        with pytest.raises(VrbenchError, match="pocket_mme"):
            plan("layers", tasks="pocket_mne")


class TestDigests:
    def test_a_change_is_seen_in_all_steps_above_it(self) -> None:
        one, other = (step_digests(plan("layers,strategies", overrides={"warmup": share})) for share in ("0.1", "0.2"))
        assert all(one[name] != other[name] for name in one)
        one, other = (step_digests(plan("text", limit=limit)) for limit in (3, 4))
        assert {name for name in one if one[name] == other[name]} == {"train-full-s0", "train-sparse-uniform-8-s0"}


class TestEstimates:
    def test_a_pocket_plan_for_one_seed_fits_into_25_minutes_of_one_card(self, whole: Plan) -> None:
        total = sum(step.minutes for step in whole.steps)
        of = FAMILIES["pocket"]
        assert wall_minutes(total, of.costs, 1, of.jobs_per_gpu) <= 25

    def test_fewer_layers_steps_and_items_are_cheaper(self) -> None:
        of = FAMILIES["pocket"]

        def training(**keys: str | int) -> float:
            return step_minutes("train", {k.replace("__", "."): v for k, v in keys.items()}, of, 0, 8)

        every = training(tune__steps=100, tune__layers="all")
        assert every > training(tune__steps=100, tune__layers="{x}") > training(tune__steps=50, tune__layers="{x}")
        assert training(tune__steps=100, tune__layers="{x}") == training(tune__steps=100, tune__layers="top:8")
        assert step_minutes("run", {}, of, 1000, 8) > step_minutes("run", {}, of, 100, 8)

    def test_an_epoch_of_a_big_family_is_priced_by_its_samples(self) -> None:
        of = FAMILIES["llava-1.5-7b"]
        hours = step_minutes("train", {"tune.layers": "all"}, of, 0, 8) / 60
        assert hours == pytest.approx(665_298 / 8 * 0.921 / 3600, rel=0.02)
        tenth = step_minutes("train", {"tune.layers": "all", "data.share": 0.1}, of, 0, 8) / 60
        assert tenth == pytest.approx(hours / 10, rel=0.02)
