"""``shardbus export`` without a server: a plan's file in, scripts out, and what a person does wrong on the way."""

import json
import os
from pathlib import Path

import pytest
from support.command_line import document, shardbus_here
from support.exported_scripts import Shell

FLEET = Path(__file__).parents[2] / "examples" / "attic.json"
ASKED = ("llama-3.3-70b", "--fleet", FLEET, "--sharding", "pipeline", "--deadline-ms", "20000", "--json")


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``shardbus plan --json`` printed: the Mac and the three cards, a stage each."""
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    done = shardbus_here("plan", *ASKED)
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return file


def test_a_printed_plan_becomes_scripts_that_run(plan_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = ("export", "--plan", plan_file, "--fleet", FLEET, "--for", "llama.cpp", "--address", "attic=10.0.0.5")
    done = shardbus_here(*words, "--output", folder)
    assert done.returncode == 0, done.stderr
    written = sorted(folder.iterdir())
    assert done.stdout.split() == [str(file) for file in written]
    assert [file.name for file in written] == ["1-rpc-attic.sh", "2-llama-server-desk.sh"]
    assert all(os.access(file, os.X_OK) for file in written)
    assert "note: taken for host names, since nothing else is known: desk" in done.stderr
    stages = json.loads(plan_file.read_text())["stages"]
    call = Shell(tmp_path).only(written[1].read_text())
    shares = [int(part) for part in call.option("--tensor-split").split(",")]
    assert shares[:-1] == [stage["end_layer"] - stage["start_layer"] for stage in stages[:-1]]
    assert sum(shares) == 81
    told = document(shardbus_here(*words, "--json"))
    assert told["files"] == {file.name: file.read_text() for file in written}
    assert told["runtime"] == "llama.cpp"


def test_nothing_is_written_over_unless_it_is_asked_for(plan_file: Path, tmp_path: Path) -> None:
    words = ("export", "--plan", plan_file, "--fleet", FLEET, "--for", "mlx", "--output", tmp_path)
    mine = tmp_path / "ranks.json"
    mine.write_text("mine")
    refused = shardbus_here(*words)
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "ranks.json is already there; --force writes over it" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["ranks.json"]
    assert mine.read_text() == "mine"
    elsewhere = tmp_path.parent / "elsewhere.json"
    elsewhere.write_text("not mine")
    mine.unlink()
    mine.symlink_to(elsewhere)
    assert shardbus_here(*words, "--force").returncode == 0
    assert json.loads(mine.read_text())["layers"] == 80
    assert elsewhere.read_text() == "not mine"


def test_a_plan_is_read_from_a_pipe_and_printed_for_people(plan_file: Path) -> None:
    done = shardbus_here("export", "--plan", "-", "--fleet", FLEET, "--for", "mlx", stdin=plan_file.read_text())
    assert done.returncode == 0, done.stderr
    for said in ("==> launch.sh", "==> hostfile.json", "==> ranks.json", "# stage 0: desk/gpu, layers 0-"):
        assert said in done.stdout


def test_labels_say_where_nodes_are_and_what_exo_calls_them(plan_file: Path, tmp_path: Path) -> None:
    fleet = json.loads(FLEET.read_text())
    for node in fleet["nodes"]:
        node["labels"] |= {"address": f"{node['node_id']}.lan", "exo_node_id": f"12D3-{node['node_id']}"}
    labelled = tmp_path / "fleet.json"
    labelled.write_text(json.dumps(fleet))
    words = ("export", "--plan", plan_file, "--fleet", labelled, "--json")
    hosts = json.loads(document(shardbus_here(*words, "--for", "mlx"))["files"]["hostfile.json"])["hosts"]
    assert [host["ssh"] for host in hosts] == ["desk.lan", "attic.lan", "attic.lan", "attic.lan"]
    few = tmp_path / "few.json"
    few.write_text(shardbus_here("plan", "llama-3.3-70b-4bit", *ASKED[1:], "--exclude", "attic").stdout)
    exo = document(
        shardbus_here("export", "--plan", few, "--fleet", labelled, "--json", "--for", "exo", "--weights", "a/b")
    )
    ring = json.loads(exo["files"]["instance.json"])["instance"]["MlxRingInstance"]
    assert list(ring["shardAssignments"]["nodeToRunner"]) == ["12D3-desk"]


def test_what_a_runtime_cannot_run_exits_with_3_and_says_why(plan_file: Path) -> None:
    words = ("export", "--plan", plan_file, "--fleet", FLEET, "--for", "vllm")
    done = shardbus_here(*words)
    assert (done.returncode, done.stdout) == (3, "")
    assert "vllm cannot run this plan (backend_unsupported): desk/gpu is driven by metal" in done.stderr
    refusal = document(shardbus_here(*words, "--json"), code=3)["refusal"]
    assert refusal["code"] == "backend_unsupported"
    assert refusal["remedy"].startswith("place it with --exclude desk/gpu")


def test_a_persons_mistakes_are_said_in_a_line(plan_file: Path, tmp_path: Path) -> None:
    rubbish, refused = tmp_path / "rubbish.json", tmp_path / "refused.json"
    rubbish.write_text('{"stages": []}')
    refused.write_text(shardbus_here("plan", "deepseek-r1", "--fleet", FLEET, "--json", "--deadline-ms", "50").stdout)
    for words, code, said in [
        ((), 2, "name an instance"),
        (("x", "--plan", plan_file), 2, "name an instance"),
        (("x",), 5, "--plan FILE"),
        (("--plan", tmp_path / "nowhere.json"), 2, "no such file"),
        (("--plan", rubbish), 2, "no plan as `shardbus plan --json` prints it"),
        (("--plan", refused), 3, "a refusal, not a plan"),
        (("--plan", plan_file, "--address", "attic"), 2, "write NODE=HOST[:PORT]"),
        (("--plan", plan_file, "--address", "atic=10.0.0.1"), 2, "did you mean 'attic'?"),
        (("--plan", plan_file, "--address", "attic=a b"), 2, "'a b' is no address"),
        (("--plan", plan_file, "--address", "attic=a", "--address", "attic=b"), 2, "given twice"),
    ]:
        done = shardbus_here("export", *words, "--for", "llama.cpp")
        assert (done.returncode, done.stdout) == (code, ""), words
        assert said in done.stderr, words
        assert done.stderr.count("\n") == 1, done.stderr
