"""What the environments of launchers say, with variables as Open MPI 4.1, MPICH 4.0 and SLURM 22.05 set them."""

from __future__ import annotations

from itertools import islice

import pytest

from foretrain.distributed.launchers import (
    PORTS,
    Launch,
    count_of_several,
    expand_hosts,
    find_launch,
    gpu_index,
    refuse_changing_size,
    speaks,
)
from foretrain.errors import ConfigError

ELASTIC = {
    "TORCHELASTIC_RUN_ID": "run",
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "41000",
}
HAND = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "41000"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_MCA_orte_hnp_uri": "1536491520.0;tcp://192.0.2.2,10.0.0.2:38375;tcp6://[fd00::2]:36137",
    "OMPI_MCA_ess_base_jobid": "1536491521",
    "PMIX_NAMESPACE": "1536491521",
    "PMIX_RANK": "5",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "6", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_JOB_NODELIST": "gpu[05-08]",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURMD_NODENAME": "gpu08",
}


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def refused(environment: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        find_launch(environment)
    return str(caught.value)


def test_a_process_that_nothing_started_is_alone():
    assert find_launch({}) == Launch() == Launch(None, 0, 1, 0, 1)


def test_torchrun_is_read_from_its_variables():
    assert find_launch(ELASTIC) == Launch("torchrun", 9, 16, 1, 8, "node0", 41000)


def test_a_start_by_hand_is_read_from_the_same_variables():
    assert find_launch(HAND) == Launch(None, 1, 4, 1, None, "node0", 41000)
    assert find_launch(HAND | {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}) == Launch(None, 1, 4, 0, 1, "node0", 41000)


def test_open_mpi_meets_where_mpirun_runs():
    found = find_launch(OPEN_MPI)
    assert (found.launcher, found.rank, found.size, found.local_rank, found.local_size) == ("mpirun", 5, 8, 1, 4)
    assert (found.address, found.found) == ("192.0.2.2", True)


def test_ranks_of_one_host_meet_there_whatever_its_name():
    here = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}
    assert (find_launch(here).address, find_launch(here).found) == ("127.0.0.1", False)
    assert find_launch(MPICH) == Launch("mpiexec", 1, 2, 1, 2, "127.0.0.1", 29500)
    one = {"SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_STEP_NODELIST": "gpu07"}
    assert find_launch(SLURM | one).address == "127.0.0.1"
    assert find_launch(without(SLURM | one, "SLURM_STEP_TASKS_PER_NODE")).local_size == 4


def test_slurm_meets_on_the_first_host_of_its_step():
    found = find_launch(SLURM)
    assert (found.launcher, found.rank, found.size, found.local_rank, found.local_size) == ("srun", 3, 4, 1, 2)
    assert (found.address, found.found) == ("gpu07", True)
    assert find_launch(without(SLURM, "SLURM_STEP_NODELIST")).address == "gpu05"


@pytest.mark.parametrize(
    ("per_node", "node", "expected"),
    [
        ("2(x2)", 1, 2),
        ("2(x2),1", 2, 1),
        ("3,1(x3)", 0, 3),
        ("3,1(x3)", 3, 1),
        ("2", 1, None),
        ("", 0, None),
        ("x", 0, None),
    ],
)
def test_the_tasks_of_a_node_are_counted_from_slurm_s_list(per_node, node, expected):
    environment = SLURM | {"SLURM_STEP_TASKS_PER_NODE": per_node, "SLURM_NODEID": str(node)}
    assert find_launch(environment).local_size == expected


def test_mpi_in_a_job_of_slurm_meets_on_the_first_host_of_the_job():
    job = {"SLURM_JOB_NODELIST": "b[3,5]", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}
    two_hosts = MPICH | {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"}
    for environment in (OPEN_MPI | job, two_hosts | job):
        assert (find_launch(environment).address, find_launch(environment).found) == ("b3", True)


def test_slurm_s_own_pmi_variables_are_those_of_srun():
    assert find_launch(SLURM | {"PMI_RANK": "3", "PMI_SIZE": "4"}) == find_launch(SLURM)
    assert find_launch(SLURM | {"PMIX_RANK": "3"}) == find_launch(SLURM)


def test_the_order_is_torchrun_open_mpi_pmi_slurm():
    daemons = SLURM | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}  # of mpirun, which srun starts
    all_of_them = [ELASTIC, OPEN_MPI, MPICH, daemons]
    for first, name in enumerate(("torchrun", "mpirun", "mpiexec", "srun")):
        merged: dict[str, str] = {}
        for environment in reversed(all_of_them[first:]):
            merged |= environment
        assert find_launch(merged).launcher == name


@pytest.mark.parametrize("environment", [OPEN_MPI, SLURM, MPICH])
def test_the_user_s_address_and_port_win(environment):
    place = {"MASTER_ADDR": "fd00::7", "MASTER_PORT": "1234"}
    found = find_launch(environment | place)
    assert (found.address, found.port, found.found) == ("fd00::7", 1234, False)
    assert find_launch(environment | {"MASTER_ADDR": "n"}).port == find_launch(environment).port
    assert find_launch(environment | {"MASTER_PORT": "1234"}).address == find_launch(environment).address


def test_the_port_follows_from_the_job_and_differs_between_jobs():
    ports = {find_launch(SLURM | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": "1"}).port for job in range(4700, 4720)}
    assert len(ports) > 15 and all(port in PORTS for port in ports)
    assert find_launch(SLURM).port == find_launch(SLURM | {"SLURM_PROCID": "0", "SLURMD_NODENAME": "gpu07"}).port
    assert find_launch(SLURM).port != find_launch(SLURM | {"SLURM_STEP_ID": "1"}).port
    assert find_launch(OPEN_MPI).port != find_launch(OPEN_MPI | {"PMIX_NAMESPACE": "2"}).port
    assert find_launch(MPICH | {"PBS_JOBID": "12.server"}).port in PORTS


def test_a_launcher_of_one_process_makes_a_world_of_one():
    one = {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMIX_RANK": "0"}
    assert find_launch(one) == Launch("mpirun")
    assert find_launch({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Launch("srun")


def test_a_batch_script_of_slurm_is_one_process():
    assert find_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "a[1-2]"}) == Launch()


def test_hand_set_variables_that_agree_with_a_launcher_are_no_contradiction():
    theirs = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert find_launch(SLURM | theirs) == find_launch(SLURM)
    assert find_launch(SLURM | {"WORLD_SIZE": "4"}) == find_launch(SLURM)


@pytest.mark.parametrize("environment", [OPEN_MPI, MPICH, SLURM, {"PMIX_RANK": "1"}])
def test_world_size_1_alone_asks_for_a_run_of_its_own(environment):
    assert find_launch(environment | {"WORLD_SIZE": "1"}) == Launch()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (OPEN_MPI | {"RANK": "4"}, "RANK is 4 and OMPI_COMM_WORLD_RANK, of mpirun, is 5"),
        (OPEN_MPI | {"WORLD_SIZE": "4"}, "WORLD_SIZE is 4 and OMPI_COMM_WORLD_SIZE, of mpirun, is 8"),
        (OPEN_MPI | {"RANK": "0", "WORLD_SIZE": "1"}, "RANK is 0 and OMPI_COMM_WORLD_RANK, of mpirun, is 5"),
        (SLURM | {"LOCAL_RANK": "0"}, "LOCAL_RANK is 0 and SLURM_LOCALID, of srun, is 1"),
        (MPICH | {"LOCAL_WORLD_SIZE": "8"}, "LOCAL_WORLD_SIZE is 8 and MPI_LOCALNRANKS, of mpiexec, is 2"),
        (SLURM | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
         "OMPI_COMM_WORLD_SIZE is 1 and SLURM_STEP_NUM_TASKS is 4"),
        (ELASTIC | SLURM | {"GROUP_WORLD_SIZE": "1"}, "srun started 4 torchruns (SLURM_STEP_NUM_TASKS), each of which"),
    ],
)  # fmt: skip
def test_contradictions_are_errors_that_name_both_variables(environment, words):
    assert words in refused(environment)


def test_a_torchrun_on_each_node_of_srun_is_no_contradiction():
    assert find_launch(ELASTIC | SLURM | {"GROUP_WORLD_SIZE": "4"}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (without(OPEN_MPI, "OMPI_MCA_orte_hnp_uri"), "no variable says on which host rank 0 is. Set MASTER_ADDR"),
        (MPICH | {"MPI_LOCALNRANKS": "1"}, "mpiexec -genv MASTER_ADDR HOST"),
        (without(MPICH, "MPI_LOCALNRANKS"), "no variable says on which host rank 0 is"),
        (without(SLURM, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"), "export MASTER_ADDR=HOST before srun"),
        (SLURM | {"SLURM_PROCID": "0"}, "srun put rank 0 on gpu08 (SLURMD_NODENAME), and the others look for it on"),
        ({"PMIX_RANK": "0"}, "PMIX_RANK is 0, so a PMIx launcher started this process, but no variable says of"),
        ({"PMI_ID": "1", "PMI_PORT": "vm:40255"}, "PMI_ID is 1, so mpiexec -pmi-port started"),
        (without(OPEN_MPI, "OMPI_COMM_WORLD_SIZE"), "OMPI_COMM_WORLD_RANK is 5, so mpirun started this process"),
        (without(OPEN_MPI, "OMPI_COMM_WORLD_RANK"), "in the environment, but OMPI_COMM_WORLD_RANK is not set"),
        (without(MPICH, "MPI_LOCALRANKID"), "MPI_LOCALRANKID or PMI_LOCAL_RANK, the rank within the host, is not set"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "8"}, "ranks count from 0 to 7"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "0"}, "OMPI_COMM_WORLD_SIZE is 0"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "four"}, "SLURM_STEP_NUM_TASKS is 'four' in the environment, not a number"),
        (SLURM | {"MASTER_PORT": "99999"}, "MASTER_PORT is 99999 in the environment. Ports are 1 to 65535"),
        (HAND | {"MASTER_PORT": "abc"}, "MASTER_PORT is 'abc' in the environment, not a number"),
        (HAND | {"MASTER_ADDR": ""}, "MASTER_ADDR is empty"),
        (without(HAND, "MASTER_PORT"), "RANK, MASTER_ADDR and MASTER_PORT are not all set"),
    ],
)  # fmt: skip
def test_ranks_that_would_train_alone_never_start(environment, words):
    assert words in refused(environment)


SHARED = ELASTIC | {"TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.parametrize("words", [["--nnodes", "1:4"], ["--nnodes=1:4"], []])
def test_a_torchrun_that_cannot_change_its_size_is_refused_if_it_may(words):
    command = ["python", "-m", "torch.distributed.run", *words, "--nproc-per-node", "2"]
    environment = SHARED if words else SHARED | {"PET_NNODES": "1:4"}
    with pytest.raises(ConfigError, match=r"--nnodes 1:4 may change .* Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        refuse_changing_size(environment, command)
    refuse_changing_size(environment | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, command)


@pytest.mark.parametrize("words", [[], ["--nnodes", "4"], ["--nnodes=2:2"], ["--nnodes"], ["train", "a=1:4"]])
def test_a_torchrun_of_a_fixed_size_is_not(words):
    refuse_changing_size(SHARED, ["torchrun", *words])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a"]),
        ("a[01-03,7]", ["a01", "a02", "a03", "a7"]),
        ("n-1,gpu[8-10].site", ["n-1", "gpu8.site", "gpu9.site", "gpu10.site"]),
        ("r[1-2]n[01,5],x", ["r1n01", "r1n5", "r2n01", "r2n5", "x"]),
        ("a[098-101]", ["a098", "a099", "a100", "a101"]),
    ],
)
def test_node_lists_are_expanded_as_slurm_writes_them(text, expected):
    assert list(expand_hosts(text)) == expected


def test_the_first_of_a_billion_hosts_comes_at_once():
    assert list(islice(expand_hosts("a[1-999999999]b[1-999999999]"), 2)) == ["a1b1", "a1b2"]


@pytest.mark.parametrize(
    "text", ["", ",", "a,", "a[1", "a]1[", "a[]", "a[1-]", "a[x]", "a b", "a[1-2-3]", "[" * 5000, "a[1" * 5000]
)
def test_what_is_no_node_list_is_an_error_that_names_the_variable(text):
    with pytest.raises(ConfigError, match=r"^HOSTS is .* no list of hosts"):
        list(expand_hosts(text, "HOSTS"))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1"}, None),
        ({"WORLD_SIZE": "abc"}, None),
        ({"WORLD_SIZE": "9" * 5000}, ("WORLD_SIZE", "9" * 5000)),
        (OPEN_MPI, ("OMPI_COMM_WORLD_SIZE", "8")),
        (OPEN_MPI | {"WORLD_SIZE": "1"}, None),
        (OPEN_MPI | {"WORLD_SIZE": "1", "RANK": "0"}, ("OMPI_COMM_WORLD_SIZE", "8")),
        (SLURM, ("SLURM_STEP_NUM_TASKS", "4")),
        ({"SLURM_NTASKS": "4"}, None),
    ],
)
def test_several_processes_are_noticed_without_a_check(environment, expected):
    assert count_of_several(environment) == expected


@pytest.mark.parametrize(
    ("environment", "shown", "expected"),
    [(SLURM, None, 1), (SLURM, "0,1", 1), (SLURM, "3", 0), (OPEN_MPI, "3", 0), (ELASTIC, "3", 1), (HAND, "3", 1)],
)
def test_a_process_takes_the_gpu_of_its_rank_or_the_only_one_that_its_launcher_shows_it(environment, shown, expected):
    environment = environment | ({} if shown is None else {"CUDA_VISIBLE_DEVICES": shown})
    assert gpu_index(environment, find_launch(environment)) == expected


def test_one_process_speaks():
    assert speaks({}) and speaks({"RANK": "0"}) and speaks(OPEN_MPI | {"OMPI_COMM_WORLD_RANK": "0"})
    assert not any(map(speaks, (ELASTIC, HAND, OPEN_MPI, MPICH, SLURM)))
