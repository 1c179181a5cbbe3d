"""Every fault that the suite is built to survive, what must happen, and the tests of it."""

from __future__ import annotations

from dataclasses import dataclass

_RESUME = "tests/faults/test_fault_resume.py::"
_SEQUENCE = "tests/faults/test_fault_sequence.py::"
_STRANGERS = "tests/faults/test_fault_strangers.py::"
_STORAGE = "tests/faults/test_fault_storage.py::"
_NUMBERS = "tests/faults/test_fault_numbers.py::"
_SURFACES = "tests/faults/test_fault_surfaces.py::"
_WORKERS = "tests/faults/test_fault_workers.py::"
_FUZZING = "tests/faults/test_fault_fuzzing.py::"
_COMMIT = "tests/analysis/test_checkpoint_faults.py::"
_STORE = "tests/analysis/test_checkpoint.py::"
_HOSTILE = "tests/analysis/test_checkpoint_hostile.py::"
_DIRECTORY = "tests/analysis/test_run_directory.py::"
_LOGS = "tests/analysis/test_logs.py::"
_RUNS = "tests/training/test_runs.py::"
_SAC = "tests/training/test_sac_resume.py::"
_ANT = "tests/envs/test_slippery_faults.py::"
_SWITCHES = "tests/envs/test_slippery_switching.py::"
_SHAPE = "tests/contracts/test_structure.py::"


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: F1, F2, ...; or a word for what has no number.
        fault: What goes wrong.
        expected: What must happen then.
        tests: Ids of test functions, `file::function` or `file::class::function`.
    """

    name: str
    fault: str
    expected: str
    tests: tuple[str, ...]


FAULTS: tuple[Fault, ...] = (
    Fault(
        "F1",
        "SIGKILL at any moment, also inside a save",
        "the same command ends in the same state hash and metric bytes",
        (
            _RESUME + "test_f01_half_killed_and_half_equals_the_whole",
            _RESUME + "test_f01_twenty_kills_at_random_moments",
            _RESUME + "test_f01_a_sweep_killed_in_the_middle_is_completed_by_the_same_command",
            _RESUME + "test_a_lost_stream_would_be_noticed",
            _RESUME + "test_a_hash_computed_again_is_the_same",
            _WORKERS + "test_f01_the_state_after_a_reset_does_not_tell_when_it_was_cached",
            _SAC + "test_a_stopped_run_goes_on_in_the_same_bits",
            _SAC + "test_the_replay_is_part_of_what_is_compared",
        ),
    ),
    Fault(
        "F2",
        "death after each system call of a save",
        "the previous or the new checkpoint loads, never neither",
        (
            _COMMIT + "test_death_after_each_system_call",
            _COMMIT + "test_failure_of_each_system_call",
            _COMMIT + "test_data_is_durable_before_the_rename_and_the_rename_after",
        ),
    ),
    Fault(
        "F3",
        "newest checkpoint truncated, or one bit flipped",
        "passed over and said so; if all are damaged, exit 2 and nothing is touched",
        (
            _COMMIT + "test_truncated_payloads_fall_back",
            _COMMIT + "test_a_flipped_bit_anywhere_is_noticed",
            _COMMIT + "test_all_damaged_is_an_error_and_nothing_is_touched",
            _RUNS + "test_a_damaged_checkpoint_is_passed_over_and_all_damaged_is_an_error",
            _FUZZING + "test_fuzzed_checkpoints_load_right_or_not_at_all",
        ),
    ),
    Fault(
        "F4",
        "disk full during a save",
        "training goes on, the old checkpoint stays; the third time in a row exit 4",
        (
            _STORAGE + "test_f04_training_goes_on_while_the_disk_is_full",
            _STORAGE + "test_f04_the_third_refusal_in_a_row_ends_the_run",
            _STORAGE + "test_f04_a_refused_save_at_a_switch_is_tried_again_after_a_while",
            _STORE + "test_short_disk_is_refused_before_anything_is_written",
        ),
    ),
    Fault(
        "F5",
        "disk full in a log",
        "no half line; exit 4, and the same command goes on",
        (
            _STORAGE + "test_f05_a_full_disk_in_a_log_leaves_no_half_line",
            _LOGS + "TestWriteFailures::test_no_partial_line_is_left",
        ),
    ),
    Fault(
        "F6",
        "run directory gone or read-only",
        "exit 4 at the next save; nothing is made in its place",
        (
            _STORAGE + "test_f06_a_directory_that_is_gone_ends_the_run",
            _STORAGE + "test_f06_a_directory_that_became_read_only_ends_the_run",
        ),
    ),
    Fault(
        "F7",
        "SIGTERM, SIGINT, SIGUSR1",
        "saved within the vector step, exit 75; a second signal ends at once",
        (
            _NUMBERS + "test_f07_a_signal_saves_and_exits_with_75",
            _NUMBERS + "test_f07_the_second_signal_ends_at_once",
            _RESUME + "test_f07_the_last_row_after_a_stop_shows_the_penalty_of_the_step_before",
        ),
    ),
    Fault(
        "F8",
        "the same command again",
        "continues in the same directory; restarts are counted",
        (
            _RESUME + "test_f08_the_same_command_continues_in_the_same_directory",
            _RUNS + "test_a_finished_run_is_left_alone",
        ),
    ),
    Fault(
        "F9",
        "a second process on one run directory",
        "exit 2 within a second",
        (
            _STORAGE + "test_f09_a_second_process_is_refused_within_a_second",
            _RUNS + "test_two_processes_never_share_a_run",
        ),
    ),
    Fault(
        "F10",
        "fifty runs started together",
        "fifty directories; of fifty equal runs one runs and 49 are refused",
        (_STORAGE + "test_f10_fifty_runs_started_together",),
    ),
    Fault(
        "F11",
        "changed configuration",
        "exit 2 with the differences; only released settings can be accepted",
        (
            _DIRECTORY + "TestChanges::test_a_change_is_refused_with_a_readable_diff",
            _RUNS + "test_refusals_have_their_exit_codes_and_change_nothing",
            _RUNS + "test_only_released_settings_may_change",
            _RESUME + "test_f11_an_accepted_change_is_told_although_the_run_was_killed",
        ),
    ),
    Fault(
        "F12, F13, F22",
        "another package version, processor, number of threads or device",
        "warning, record, and `bit_exact: false` in every later manifest",
        (
            _STORAGE + "test_f12_f13_f22_another_machine_withdraws_the_claim",
            _DIRECTORY + "TestEnvironment::test_a_difference_is_recorded_beside_the_first",
        ),
    ),
    Fault(
        "F14",
        "NaN or infinity in observation or reward",
        "exit 3; the dump has environment, step, action and state",
        (
            _NUMBERS + "test_f14_an_observation_that_is_no_number",
            _NUMBERS + "test_f14_a_reward_that_is_no_number",
            _ANT + "test_overflowing_state_is_unstable_even_before_mujoco_notices",
        ),
    ),
    Fault(
        "F15",
        "the simulator resets a robot silently (speed of 1e11)",
        "exit 3 in that step, BADQVEL in the reason",
        (
            _NUMBERS + "test_f15_a_silent_reset_of_the_simulator",
            _ANT + "test_blow_up_fails_with_a_reason_and_a_dump",
            _ANT + "test_a_reset_that_leaves_no_warning_is_seen_by_the_clock",
        ),
    ),
    Fault(
        "F16",
        "NaN or infinite action",
        "exit 3 before the physics sees it",
        (
            _NUMBERS + "test_f16_an_action_that_is_no_number",
            _ANT + "test_non_finite_action_fails_before_the_physics",
        ),
    ),
    Fault(
        "F17",
        "NaN or infinite loss, gradient or weight",
        "exit 3 within one update phase, with a dump",
        (
            _NUMBERS + "test_f17_a_gradient_or_weight_that_is_no_number",
            _NUMBERS + "test_f17_a_failure_on_a_full_disk_is_a_failure_all_the_same",
            _RUNS + "test_a_nan_in_a_weight_fails_the_run_loudly",
        ),
    ),
    Fault(
        "F18",
        "a worker process is killed, raises or hangs",
        "exit 1 with its traceback, no zombie, exact resume",
        (
            _WORKERS + "test_f18_a_hanging_worker_is_not_waited_for_for_ever",
            _WORKERS + "test_f18_a_lost_worker_ends_the_run_and_it_resumes_exactly",
            "tests/envs/test_meta_world_workers.py::"
            "test_a_killed_worker_is_reported_and_the_other_one_ends",
        ),
    ),
    Fault(
        "F19",
        "the run is killed while workers live",
        "workers end within two seconds, the lock is free",
        (
            "tests/envs/test_meta_world_workers.py::test_workers_end_with_their_parent",
            _DIRECTORY + "TestLock::test_children_do_not_hold_the_lock",
            _DIRECTORY + "TestLock::test_second_process_is_refused_and_a_killed_one_lets_go",
        ),
    ),
    Fault(
        "F20",
        "replay larger than the memory",
        "exit 2 at the start, with both numbers of bytes",
        (
            _NUMBERS + "test_f20_a_replay_larger_than_memory_is_refused_at_the_start",
            "tests/agents/test_replay.py::"
            "test_the_limit_is_the_smallest_of_machine_and_control_groups",
        ),
    ),
    Fault(
        "F21",
        "device out of memory (simulated)",
        "exit 1 with the sizes; the newest checkpoint is intact",
        (_NUMBERS + "test_f21_memory_of_a_device_that_runs_out",),
    ),
    Fault(
        "F23",
        "switch at the boundary of a rollout, an episode or a checkpoint",
        "right world, one event, no return or advantage crosses it",
        (
            _SWITCHES + "test_at_the_event",
            _SWITCHES + "test_every_transition_belongs_to_one_episode",
            _RUNS + "test_a_checkpoint_stays_at_every_switch",
        ),
    ),
    Fault(
        "F24",
        "killed one step before, at, and after a switch of the friction or of the task",
        "the same events, none lost, none doubled; the same bits at the end",
        (
            _RESUME + "test_f24_kill_around_a_switch",
            _SEQUENCE + "test_f24_kill_around_a_task_switch",
            _RUNS + "test_a_killed_run_ends_in_the_same_bits",
        ),
    ),
    Fault(
        "F25",
        "switch interval that is no multiple of the environments",
        "switches at 2,000,004, 4,000,008, 6,000,000 with twelve of them",
        (
            "tests/envs/test_slippery_schedules.py::test_exact_rule_against_its_definition",
            _SWITCHES + "test_overshoot_does_not_accumulate",
        ),
    ),
    Fault(
        "F26",
        "terminated and truncated in one step",
        "termination wins, no bootstrap",
        (_NUMBERS + "test_f26_both_flags_at_once_do_not_bootstrap",),
    ),
    Fault(
        "F27",
        "the clock jumps back",
        "speed and active seconds stay positive",
        (_NUMBERS + "test_f27_a_clock_that_jumps",),
    ),
    Fault(
        "F28",
        "log rows after the newest checkpoint",
        "cut off; steps are unique and increasing",
        (
            _RESUME + "test_f28_rows_after_the_checkpoint_are_cut",
            _LOGS + "TestEvents::test_resume_cuts_what_came_after_the_checkpoint",
        ),
    ),
    Fault(
        "F29",
        "hostile checkpoint: pickle, huge shape, `../`, bomb, link, duplicate keys, NaN",
        "refused quickly, nothing built, nothing written",
        (
            _HOSTILE + "test_hostile_checkpoints_are_refused",
            _HOSTILE + "test_the_directory_itself_may_not_be_a_link",
            _STRANGERS + "test_f29_arrays_of_another_form_are_refused",
            _STRANGERS + "test_f29_a_weight_that_is_no_number_is_refused",
            _STRANGERS + "test_f29_a_foreign_checkpoint_is_refused_at_every_door",
            _FUZZING + "test_fuzzed_state_trees_are_refused",
            _FUZZING + "test_fuzzed_bytes_are_no_json_and_no_tensors",
        ),
    ),
    Fault(
        "F30",
        "hostile configuration: YAML objects, code, `../`, a megabyte",
        "exit 2 in one sentence, nothing written",
        (
            _SURFACES + "test_f30_a_hostile_config_yaml_is_refused",
            _SURFACES + "test_f30_f31_hostile_words_are_refused",
            _SURFACES + "test_f30_a_run_directory_has_a_plain_name",
            _FUZZING + "test_fuzzed_config_files_are_refused_or_read",
            _FUZZING + "test_fuzzed_settings_are_refused_in_one_sentence_or_typed",
            _FUZZING + "test_fuzzed_words_are_refused_or_compose",
            _FUZZING + "test_fuzzed_logs_are_read_or_named",
        ),
    ),
    Fault(
        "F31",
        "foreign or changed model file",
        "models come by name, and only with the tested bytes",
        (
            _SURFACES + "test_f31_a_model_file_that_changed_is_refused",
            _SURFACES + "test_f30_f31_hostile_words_are_refused",
        ),
    ),
    Fault(
        "F32",
        "a listening socket",
        "a run opens none; with Ray all are on loopback",
        (
            _SURFACES + "test_f32_a_run_opens_no_socket",
            _SURFACES + "test_f32_the_kernel_shows_a_listener_where_there_is_one",
            "tests/training/test_ray_sweep.py::test_a_listening_socket_is_seen",
        ),
    ),
    Fault(
        "F33",
        "seed missing or reused",
        "exit 2; the same seed is another run only under other settings",
        (
            _SURFACES + "test_f33_a_seed_that_is_none_is_refused",
            _SURFACES + "test_f33_a_seed_is_reused_only_by_another_method",
        ),
    ),
    Fault(
        "F34",
        "hours of running and killing",
        "equal bits, no growth of memory, descriptors or threads seen (`python -m analysis.soak`)",
        (
            "tests/faults/test_soak.py::test_a_tiny_soak_finds_equal_bits",
            "tests/faults/test_soak.py::test_slope_of_a_leak_is_found_and_of_noise_is_not",
        ),
    ),
    Fault(
        "F35",
        "a storm of warnings",
        "at most ten lines a minute, no file in the working directory",
        (
            _ANT + "test_warnings_write_no_file_and_do_not_flood",
            _ANT + "test_warning_log_opens_a_new_window_each_minute",
        ),
    ),
    Fault(
        "OpenGL",
        "no OpenGL",
        "numbers come all the same, and one line says what to install",
        (
            "tests/analysis/test_evaluate_command.py::"
            "test_without_opengl_the_numbers_come_and_the_remedy_is_one_line",
        ),
    ),
    Fault(
        "extras",
        "a missing extra",
        "exit 2 with the command that installs it",
        (
            "tests/training/test_ray_sweep.py::"
            "test_without_ray_the_command_that_installs_it_is_named",
            "tests/training/test_submitit_sweep.py::"
            "test_without_submitit_the_command_that_installs_it_is_named",
        ),
    ),
    Fault(
        "pickle",
        "a pickle anywhere on a loading path",
        "never read: no call in the code, none in a whole life of a run",
        (
            _SURFACES + "test_nothing_is_unpickled_in_a_whole_life",
            _SHAPE + "test_nothing_unsafe_is_called",
        ),
    ),
    Fault(
        "overhead",
        "the cost of it all",
        "checkpoints at the default period take less than 1 % of the time",
        ("tests/faults/test_checkpoint_cost.py::test_checkpoints_cost_less_than_a_hundredth",),
    ),
)
