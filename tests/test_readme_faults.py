"""README's table of what goes wrong: each of its lines is shown by a test, which this module names."""

import ast

import pytest

from tests.conftest import ROOT

SHOWN_BY = {
    "an image is unreadable": "extract_run::test_unreadable_images_are_named_at_the_end_and_cost_no_other",
    "a PNG's text or profile is damaged, a JPEG lacks its end marker": "data_mend::test_side_chunks_of_a_png",
    "grey images hold 10 to 32 bits, or floats": "data_levels::test_a_dark_image_of_a_set_of_0_to_255_stays_dark",
    "a step has no progress to show: PyTorch is loaded, a head is fitted, a file is compared": (
        "backbench_progress::test_a_long_step_is_named_again_and_again"
    ),
    "an image is 1 pixel wide and 60,000 tall": "extract_preprocess::test_the_centre_of_tall_and_wide_images_is_timms",
    "folders can be read as splits and as classes": "data_layouts::test_flat_splits_can_be_read_in_two_ways",
    "test has no labels, or is missing": "data_layouts::test_a_test_without_labels_is_refused_with_the_ways_on",
    "files aren't images, a class folder is empty, another program left folders of its own (`@eaDir`)": (
        "data_layouts::test_folders_of_other_programs_are_neither_images_nor_classes"
    ),
    "samples of a shard have no image, or shards are packed (`.tar.gz`) beside others": (
        "data_shards::test_what_is_passed_over_in_and_beside_shards_is_said"
    ),
    "only some class folders hold `train/` and `test/`": (
        "data_layouts::test_splits_inside_some_classes_or_beside_others_can_be_read_in_two_ways"
    ),
    "a class has 2 to 10 images": "data_layouts::test_small_classes_have_val_and_test_where_that_is_possible",
    "images are .heic": "data_decode::test_heic_names_what_it_needs",
    "images were added, removed, renamed or changed in place, or labels corrected": (
        "extract_changed::test_removed_renamed_and_moved_images_cost_nothing"
    ),
    "fewer than half of a file's images are still there": (
        "extract_changed::test_features_of_another_set_of_the_same_name_are_not_replaced"
    ),
    "settings or weights have changed": "extract_run::test_other_weights_are_refused_naming_the_difference",
    "a byte of a feature file is damaged": "cache_damage::test_no_damaged_byte_changes_a_row",
    "Ctrl-C, SIGTERM, SIGKILL, a power cut, a full disk": (
        "extract_run::test_killed_and_terminated_it_goes_on_to_the_same_bits"
    ),
    "a file was begun by OpenVINO, which is not installed now or in another version": (
        "extract_openvino::test_where_the_engine_that_began_a_file_is_missing_the_error_says_what_to_install"
    ),
    "what was kept of a trial is damaged, 30 days old, or contradicted by a run": (
        "extract_trials::test_a_damaged_foreign_or_old_file_is_passed_over"
    ),
    "the folder of kept engines can be written by others, or can't be written": (
        "extract_trials::test_a_folder_that_others_can_write_to_is_not_used"
    ),
    "a network folder vanishes": "extract_faults::test_a_folder_that_vanishes_stops_the_run_and_loses_nothing",
    "a worker process dies": "extract_shards::test_a_killed_worker_is_replaced_and_a_stopped_run_goes_on",
    "a process that reads images dies, mostly for lack of memory": (
        "extract_readers::test_a_reader_that_dies_stops_the_run_and_costs_nothing_else"
    ),
    "two runs write one file": (
        "extract_faults::test_of_runs_begun_at_the_same_instant_one_computes_and_the_others_wait_or_refuse"
    ),
    "the input is 255 times too large, or too small": (
        "extract_guard::test_the_published_mistake_is_stopped_and_measured"
    ),
    "test holds copies of train or val images, or one image is in two classes": (
        "probe_duplicates::test_a_row_counts_them_and_gives_top1_without_them"
    ),
    "a table names files that are not there, or one file with two labels": (
        "data_table::test_faults_are_named_all_at_once"
    ),
    "a group (patient, video, site) is in train and in test": "data_table::test_a_split_that_groups_cross_is_said",
    "`audit.csv` names images or classes that are not in the data set, is another kind of file, or two contradict each "
    "other": "backbench_decisions::test_files_that_contradict_each_other",
    "images are left out or relabelled by `audit.csv`": (
        "cache_decided::test_tables_tell_the_whole_set_from_what_is_left"
    ),
    "names in `audit.csv` hold quotes, line breaks or bytes that are no UTF-8, or what the browser keeps of "
    "`audit.html` is damaged": "audit_page::test_the_csv_that_is_saved_is_the_one_that_python_writes",
    "a head's predictions of the audited test images are damaged or were not kept": (
        "audit_answer::test_damaged_and_missing_details_are_named_and_passed_over"
    ),
    "a row of an audit comes from a stranger, or holds no number where one belongs": (
        "report_audits::test_figures_of_another_type_are_left_out"
    ),
    "a table of `cache export` is there already, the disk is full, pyarrow is missing": (
        "cache_parquet::test_a_table_is_whole_or_not_there"
    ),
    "a class has too few images or groups for `--folds`": (
        "probe_folds::test_too_few_images_of_a_class_for_so_many_folds"
    ),
    "val is too small for prediction sets": "probe_coverage::test_a_val_that_is_too_small_for_a_level_is_told_of_once",
    "a learning rate diverges": "finetune_run::test_a_rate_that_diverges_stops_with_the_best_until_then",
    "a GPU is too small for the batch": "finetune_train::test_out_of_memory_halves_what_goes_through_at_a_time",
    "no class mapping between a head and the new data set": (
        "generalize_run::test_what_has_no_classes_in_common_is_passed_over_with_the_way_on"
    ),
    "a server lacks images, cuts them short or answers with a page": (
        "data_openimages::test_what_breaks_off_or_takes_too_long_is_tried_again"
    ),
    "a head's file holds numbers that make no head, or a checkpoint's scores of val are none": (
        "probe_head_knn::test_tensors_that_make_no_head_of_neighbours_are_refused"
    ),
    "among new images some can't be read, or all differ from those before": (
        "predict_run::test_unreadable_images_are_named_and_passed_over"
    ),
    "new images are of other things than the head knows": ("predict_run::test_images_of_other_things_are_warned_of"),
    "a head's weights are not on this machine": (
        "predict_find::test_a_heads_weights_are_fetched_only_where_that_is_allowed"
    ),
    "among new images are some that the head was fitted or chosen on": (
        "predict_run::test_images_that_it_was_fitted_or_chosen_on_do_not_count"
    ),
    "several heads know different classes": "predict_find::test_models_of_other_classes_are_not_taken_together",
    "an earlier version wrote the head or the checkpoint": (
        "predict_reference::test_what_an_earlier_version_kept_says_nothing_of_new_images"
    ),
    "`--copy-to` meets a file of the same name, a link, or a class that is no folder name (`a/b`, `..`)": (
        "predict_copies::test_a_class_is_one_safe_folder_name"
    ),
    "a checkpoint belongs to another model, class list or transform": (
        "finetune_model::test_a_checkpoint_that_is_not_one_is_refused"
    ),
    "a file of weights is a web page, a git-LFS pointer, a program or of another model": (
        "extract_weights_file::test_what_is_no_weights_is_called_what_it_is"
    ),
    "an encoder doesn't pool its features": "extract_described::test_an_encoder_that_does_not_pool_says_how_it_can",
    "one backbone of several can't be had": "extract_together::test_one_that_fails_does_not_stop_the_others",
    "a head or run has no form in timm: kNN, another layer, `cnn`": (
        "export_run::test_a_network_of_our_own_with_its_views"
    ),
    "an exported file says something else than backbench": (
        "export_run::test_other_probabilities_than_ours_are_not_written"
    ),
    "`export --out` holds other files, or the disk is full": "export_run::test_a_full_disk_leaves_nothing",
    "nobody is logged in, the token may not write, the hub can't be reached": (
        "export_hub::test_who_may_not_is_told_what_to_do"
    ),
    "names are unknown": "extract_timm_names::test_typos_of_all_kinds_are_told_together_before_torch_is_imported",
}
"""The first cell of each line, and the test that shows what happens then."""


def test_every_line_is_shown_by_a_test():
    table = (ROOT / "README.md").read_text().partition("## What goes wrong")[2].partition("\n## ")[0]
    lines = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert lines[1:] == list(SHOWN_BY)


@pytest.mark.parametrize("test", SHOWN_BY.values())
def test_there_is_such_a_test(test):
    module, _, name = test.partition("::")
    tree = ast.parse((ROOT / "tests" / f"test_{module}.py").read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
