//! Starts that find something damaged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millrace_tests::{Deadline, Finished, Millrace, Workspace, manifest, read};

const ROWS: i64 = 200_000;

fn pipeline(interval: &str) -> String {
    pipeline_in(interval, "")
}

/// The same with more said of its checkpoints.
fn pipeline_in(interval: &str, more: &str) -> String {
    let numbers = manifest::numbers(ROWS, 40000);
    let pipeline = format!(
        "apiVersion: millrace.dev/v1alpha1
kind: Pipeline
metadata: {{name: recovered}}
spec:
  checkpoints: {{interval: {interval}, minPause: 10ms, retain: 3{more}}}
  sources:
    - name: events
      {numbers}
      eventTime: {{column: ts}}
  transforms:
    - {{name: counts, window: w, sql: \"SELECT id % 1000 AS k, window_start, count(*) AS n FROM events GROUP BY id % 1000\"}}
  outputs:
    - {{from: counts, sink: counts}}
"
    );
    [
        &pipeline[..],
        &manifest::window("w", "tumbling: {size: 10s}"),
        &manifest::sink("counts", "file: {path: out, format: {json: {}}}"),
    ]
    .concat()
}

/// A pipeline that was killed after a few checkpoints, and its manifests, oldest first.
fn killed() -> (Workspace, Vec<PathBuf>) {
    killed_with("", "data/checkpoints")
}

/// The same with its checkpoints in a folder.
fn killed_with(more: &str, storage: &str) -> (Workspace, Vec<PathBuf>) {
    let workspace = Workspace::new();
    workspace.write("recovered.yaml", pipeline_in("100ms", more));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    let out = workspace.join("out");
    Deadline::secs(60).wait_for("committed rows", || (read::folder(&out).len() >= 4000).then_some(()));
    running.terminate();
    running.wait().expect_success();
    let manifests = read::all_files(&workspace.join(storage).join("recovered/manifests"));
    assert_eq!(manifests.len(), 3, "{manifests:?}");
    let mut manifests: Vec<PathBuf> = manifests.into_iter().map(|(path, _)| path).collect();
    manifests.sort_by_key(|manifest| epoch_of(manifest));
    (workspace, manifests)
}

fn epoch_of(manifest: &Path) -> u64 {
    manifest.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap()
}

fn expect_whole(workspace: &Workspace) {
    let counts = read::folder(&workspace.join("out"));
    assert_eq!((counts.len() as i64, counts.sum("n")), (ROWS / 10, ROWS));
}

/// The files that a manifest names and another does not.
fn only_in(store: &Path, manifest: &Path, other: &Path) -> Vec<PathBuf> {
    let (named, also) = (fs::read_to_string(manifest).unwrap(), fs::read_to_string(other).unwrap());
    let files = read::all_files(&store.join("files")).into_iter().map(|(path, _)| path);
    let is_named = |path: &Path, by: &str| by.contains(path.file_name().unwrap().to_str().unwrap());
    files.filter(|path| is_named(path, &named) && !is_named(path, &also)).collect()
}

#[test]
fn an_old_checkpoint_whose_manifest_is_damaged_does_not_keep_a_run_from_going_on() {
    let (workspace, manifests) = killed();
    fs::write(&manifests[0], "{").unwrap();
    let finished = Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    assert!(finished.stderr.contains("a checkpoint is damaged"), "but is told: {}", finished.stderr);
    expect_whole(&workspace);
    // It has expired, and nothing of it is left after the next start.
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    let left = read::all_files(&workspace.join("data/checkpoints/recovered/manifests"));
    assert!(left.iter().all(|(path, _)| !manifests.contains(path)), "{left:?}");
}

#[test]
fn an_old_checkpoint_that_lacks_a_file_is_told_of_while_rows_flow() {
    let (workspace, manifests) = killed();
    let store = workspace.join("data/checkpoints/recovered");
    let files = only_in(&store, &manifests[0], &manifests[2]);
    fs::remove_file(files.first().expect("each checkpoint has a file of its own")).unwrap();
    // Nothing expires while this runs.
    workspace.write("recovered.yaml", pipeline("1h"));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    let told = || running.stderr().contains("a kept checkpoint is damaged; this run does not need it").then_some(());
    Deadline::secs(60).wait_for("word of the damage", told);
    running.wait().expect_success();
    expect_whole(&workspace);
}

#[test]
fn the_newest_checkpoint_that_lacks_a_file_is_refused_with_the_one_before_it_that_is_whole() {
    let (workspace, manifests) = killed();
    let store = workspace.join("data/checkpoints/recovered");
    for (damaged, whole) in [(2, 0), (1, 0)] {
        let files = only_in(&store, &manifests[damaged], &manifests[whole]);
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
    }
    let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
    let (newest, oldest) = (epoch_of(&manifests[2]), epoch_of(&manifests[0]));
    refused.expect_stderr(&[
        &format!("checkpoint {newest}, the newest, is damaged; checkpoint {oldest} before it is sound"),
        "--allow-previous-checkpoint",
    ]);
}

fn checkpoints(workspace: &Workspace, args: &[&str]) -> Finished {
    Millrace::new(workspace, ["checkpoints"].iter().chain(args)).finish()
}

fn repair(workspace: &Workspace) -> Finished {
    checkpoints(workspace, &["repair", "--data-dir", "data"])
}

/// Changes a byte in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

const REPAIR: &str = "millrace checkpoints repair";
const DELETE_ALL: &str = "millrace checkpoints delete --all";

#[test]
fn each_note_that_is_damaged_is_told_with_what_helps_and_made_anew_it_costs_no_row() {
    for note in ["layout", "instance", "generation", "pipeline", "checkpoints/recovered/latest"] {
        let (workspace, manifests) = killed();
        let path = workspace.join("data").join(note);
        damage(&path);
        let damaged = fs::read(&path).unwrap();
        let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
        let refused = refused.expect_stderr(&[note, "is damaged", "help:", REPAIR]);
        assert!(!refused.stderr.contains("--allow-previous-checkpoint"), "that does not help: {}", refused.stderr);
        Millrace::run(&workspace, "recovered.yaml").args(["--allow-previous-checkpoint"]).finish().expect_code(1);

        let repaired = repair(&workspace).expect_success().stdout;
        let name = Path::new(note).file_name().unwrap().to_str().unwrap();
        assert!(repaired.starts_with(&format!("{name}: made anew: ")), "{repaired}");
        assert_eq!(repaired.lines().count(), 1, "what is whole is left alone: {repaired}");
        let kept = path.with_file_name(format!("{name}.damaged-1"));
        assert!(repaired.contains(&format!("kept as {}", kept.strip_prefix(workspace.path()).unwrap().display())));
        assert_eq!(fs::read(kept).unwrap(), damaged);
        assert!(manifests.iter().all(|manifest| manifest.exists()), "no checkpoint is touched");
        let nothing = repair(&workspace).expect_success().stdout;
        assert!(nothing.contains("nothing that can be made anew is damaged"), "{nothing}");

        Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
        expect_whole(&workspace);
    }
}

#[test]
fn everything_that_is_noted_can_be_made_anew_from_the_checkpoints_alone() {
    let (workspace, manifests) = killed();
    let instance = fs::read_to_string(workspace.join("data/instance")).unwrap();
    for note in ["layout", "instance", "generation", "pipeline", "storage", "checkpoints/recovered/latest"] {
        fs::write(workspace.join("data").join(note), "").unwrap();
    }
    let repaired = repair(&workspace).expect_success().stdout;
    assert_eq!(repaired.matches("made anew").count(), 6, "{repaired}");
    let newest = epoch_of(&manifests[2]);
    assert!(repaired.contains(&format!("latest: made anew: checkpoint {newest}, ")), "{repaired}");
    assert!(repaired.contains("pipeline: made anew: it is recovered"), "{repaired}");
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    expect_whole(&workspace);
    assert_eq!(fs::read_to_string(workspace.join("data/instance")).unwrap(), instance, "sinks know it by this id");
}

#[test]
fn each_file_of_a_checkpoint_that_is_damaged_or_missing_in_the_store_is_named() {
    let (workspace, manifests) = killed();
    let verify = |more: &[&str]| checkpoints(&workspace, &[&["verify", "--data-dir", "data"], more].concat());
    let epochs: Vec<String> = manifests.iter().map(|manifest| epoch_of(manifest).to_string()).collect();
    assert!(verify(&[]).expect_success().stdout.contains("checkpoints that are whole: 3, with"));

    let files = only_in(&workspace.join("data/checkpoints/recovered"), &manifests[2], &manifests[1]);
    let [changed, gone, ..] = &files[..] else { panic!("the newest checkpoint has files of its own: {files:?}") };
    damage(changed);
    fs::remove_file(gone).unwrap();
    fs::write(&manifests[0], "{").unwrap();
    for (more, damages) in [(&[][..], 3), (&[epochs[2].as_str()][..], 2)] {
        let told = verify(more).expect_code(1).expect_stderr(&[&format!("{damages} files are damaged or missing")]);
        for file in [changed, gone] {
            assert!(told.stdout.contains(file.file_name().unwrap().to_str().unwrap()), "{}", told.stdout);
        }
        assert_eq!(told.stdout.lines().count(), damages, "{}", told.stdout);
    }
    verify(&[&epochs[0]]).expect_code(1).expect_stderr(&["1 file is damaged or missing"]);
    assert!(verify(&[&epochs[1]]).expect_success().stdout.contains("checkpoints that are whole: 1, with"));
    verify(&["99"]).expect_code(2).expect_stderr(&["there is no checkpoint 99"]);
    fs::remove_file(&manifests[2]).unwrap();
    for command in ["verify", "list"] {
        let told = checkpoints(&workspace, &[command, "--data-dir", "data"]).expect_code(1);
        told.expect_stderr(&["the newest checkpoint, is missing", "--allow-previous-checkpoint"]);
    }
}

#[test]
fn with_a_damaged_pointer_the_checkpoints_are_listed_and_none_is_deleted() {
    let (workspace, manifests) = killed();
    let latest = workspace.join("data/checkpoints/recovered/latest");
    damage(&latest);
    let listed = checkpoints(&workspace, &["list", "--data-dir", "data"]).expect_code(1);
    let listed = listed.expect_stderr(&["latest is damaged", REPAIR]);
    assert_eq!(listed.stdout.matches("unknown").count(), 3, "{}", listed.stdout);
    let newest = epoch_of(&manifests[2]).to_string();
    checkpoints(&workspace, &["inspect", "--data-dir", "data", &newest]).expect_success();

    // One that is gone is no other case.
    fs::remove_file(&latest).unwrap();
    for command in ["list", "verify"] {
        let told = checkpoints(&workspace, &[command, "--data-dir", "data"]).expect_code(1);
        told.expect_stderr(&["latest, the pointer to the newest checkpoint, is missing", REPAIR]);
    }
    for _ in 0..2 {
        let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
        refused.expect_stderr(&["the pointer is missing", REPAIR]);
    }
    assert!(!latest.exists() && manifests.iter().all(|manifest| manifest.exists()), "trying again costs nothing");
    repair(&workspace).expect_success();
    let listed = checkpoints(&workspace, &["list", "--data-dir", "data"]).expect_success().stdout;
    assert_eq!((listed.matches(" latest ").count(), listed.matches(" kept ").count()), (1, 2), "{listed}");
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    expect_whole(&workspace);
}

#[test]
fn a_repaired_pointer_to_a_damaged_checkpoint_leaves_going_back_to_the_user() {
    let (workspace, manifests) = killed();
    damage(&workspace.join("data/checkpoints/recovered/latest"));
    damage(&manifests[2]);
    repair(&workspace).expect_success();
    let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
    let (newest, before) = (epoch_of(&manifests[2]), epoch_of(&manifests[1]));
    refused.expect_stderr(&[
        &format!("checkpoint {newest}, the newest, is damaged; checkpoint {before} before it is sound"),
        "--allow-previous-checkpoint",
    ]);
    for manifest in &manifests[..2] {
        damage(manifest);
    }
    let refused = Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1);
    let refused = refused.expect_stderr(&["there is no sound one before it", "checkpoints delete --all"]);
    assert!(!refused.stderr.contains("--allow-previous-checkpoint"), "that does not help: {}", refused.stderr);
    checkpoints(&workspace, &["delete", "--data-dir", "data", "--all"]).expect_success();
    fs::remove_dir_all(workspace.join("out")).unwrap();
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    expect_whole(&workspace);
}

#[test]
fn nobody_repairs_under_a_run_or_where_nothing_has_run() {
    let workspace = Workspace::new();
    repair(&workspace).expect_code(2).expect_stderr(&["no pipeline has run in data"]);
    workspace.write("recovered.yaml", pipeline("100ms"));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    Deadline::secs(60).wait_for("the start", || running.stderr().contains("running").then_some(()));
    repair(&workspace).expect_code(2).expect_stderr(&["is in use", &running.pid().to_string()]);
}

#[test]
fn checkpoints_are_found_where_the_pipeline_kept_them_last() {
    let (workspace, manifests) = killed_with(", storage: kept", "kept");
    let newest = epoch_of(&manifests[2]).to_string();
    // From elsewhere, too, although the manifest has a relative path; and beside another pipeline's.
    let data = workspace.join("data");
    let data = data.to_str().unwrap();
    fs::create_dir_all(workspace.join("kept/another")).unwrap();
    let elsewhere = Workspace::new();
    let there = |args: &[&str]| checkpoints(&elsewhere, args);
    let listed = there(&["list", "--data-dir", data]).expect_success().stdout;
    assert!(listed.lines().any(|line| line.starts_with(&newest)), "{listed}");
    there(&["inspect", "--data-dir", data, &newest]).expect_success();
    assert!(!workspace.join("data/checkpoints").exists());

    // A command that looks elsewhere is told so; one that is damaged is told what helps.
    let nowhere = there(&["list", "--data-dir", data, "--storage", "nowhere"]).expect_code(2);
    nowhere.expect_stderr(&["there are no checkpoints in", "nowhere"]);
    damage(&workspace.join("data/storage"));
    there(&["list", "--data-dir", data]).expect_code(1).expect_stderr(&["storage is damaged", REPAIR]);
    let refused = there(&["repair", "--data-dir", data]).expect_code(2);
    refused.expect_stderr(&["the data folder itself has no checkpoints of this pipeline", "--storage"]);
    let kept = workspace.join("kept");
    let repaired = there(&["repair", "--data-dir", data, "--storage", kept.to_str().unwrap()]).expect_success();
    assert!(repaired.stdout.starts_with("storage: made anew: the checkpoints are in "), "{}", repaired.stdout);
    assert_eq!(there(&["list", "--data-dir", data]).expect_success().stdout, listed);

    // A run knows it from its manifest, and writes it anew.
    fs::write(workspace.join("data/storage"), "").unwrap();
    let run = Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    assert!(run.stderr.contains("storage is damaged"), "and says so: {}", run.stderr);
    expect_whole(&workspace);
    let listed = there(&["list", "--data-dir", data]).expect_success().stdout;
    assert!(listed.contains("finished"), "{listed}");
    let deleted = there(&["delete", "--data-dir", data, "--all"]).expect_success().stdout;
    assert!(deleted.contains("all that recovered remembered"), "{deleted}");
    assert!(!workspace.join("kept/recovered").exists() && workspace.join("kept/another").exists());
}

#[test]
fn checkpoints_that_are_gone_as_a_whole_are_missed_and_with_the_folder_put_back_it_goes_on() {
    for (more, moved) in [(", storage: kept", "kept"), ("", "data/checkpoints")] {
        let (workspace, manifests) = killed_with(more, moved);
        let (there, away) = (workspace.join(moved), workspace.join("away"));
        let own = there.join("recovered");
        fs::rename(&there, &away).unwrap();
        let (out, data) = (workspace.join("out"), workspace.join("data"));
        let committed = read::all_files(&out);
        let notes = || read::all_files(&data).into_iter().filter(|(path, _)| !path.ends_with("lock"));
        let noted: Vec<_> = notes().collect();
        let refused = |finished: Finished| {
            let place = format!("there are no checkpoints in {}", own.display());
            let refused =
                finished.expect_code(1).expect_stderr(&["nor the pointer to the newest", "put the folder back"]);
            let place = place.replace(&format!("{}/data/", workspace.path().display()), "data/");
            assert!(refused.stderr.contains(&place) && refused.stderr.contains(DELETE_ALL), "{}", refused.stderr);
        };
        for _ in 0..2 {
            refused(Millrace::run(&workspace, "recovered.yaml").finish());
            for command in ["list", "verify", "repair"] {
                refused(checkpoints(&workspace, &[command, "--data-dir", "data"]));
            }
            // As where a volume is not mounted.
            fs::create_dir_all(&there).unwrap();
        }
        assert_eq!(read::all_files(&out), committed, "nothing is staged, and nothing committed");
        assert!(notes().eq(noted), "{:?}", notes().collect::<Vec<_>>());
        fs::remove_dir(&there).expect("no folder is made in the place");

        fs::rename(&away, &there).unwrap();
        assert!(manifests.iter().all(|manifest| manifest.exists()));
        Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
        expect_whole(&workspace);

        fs::rename(&there, &away).unwrap();
        refused(Millrace::run(&workspace, "recovered.yaml").finish());
        let deleted = checkpoints(&workspace, &["delete", "--data-dir", "data", "--all"]).expect_success().stdout;
        assert!(deleted.contains("all that recovered remembered"), "{deleted}");
        assert!(away.join("recovered/latest").exists());
        fs::remove_dir_all(&out).unwrap();
        Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
        expect_whole(&workspace);

        // Where they are not gone they are forgotten with their files.
        checkpoints(&workspace, &["delete", "--data-dir", "data", "--all"]).expect_success();
        fs::remove_dir_all(&there).unwrap();
        fs::remove_dir_all(&out).unwrap();
        Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
        expect_whole(&workspace);
    }
}

#[test]
fn a_checkpoints_folder_that_is_moved_away_while_the_pipeline_runs_is_not_made_anew_and_can_be_put_back() {
    for (more, moved) in [(", storage: kept", "kept"), ("", "data/checkpoints")] {
        let workspace = Workspace::new();
        workspace.write("recovered.yaml", pipeline_in("100ms", more));
        let mut running = Millrace::run(&workspace, "recovered.yaml").start();
        let (out, there, away) = (workspace.join("out"), workspace.join(moved), workspace.join("away"));
        Deadline::secs(60).wait_for("committed rows", || (read::folder(&out).len() >= 4000).then_some(()));
        fs::rename(&there, &away).unwrap();
        // A manifest or a pointer that cannot be written is tried again; files of state end the run.
        let waits = |text: &str| text.contains("could not be moved") || text.contains("could not be written");
        let told = Deadline::secs(60).poll(|| (!running.is_alive() || waits(&running.stderr())).then_some(()));
        assert!(told.is_some() && running.stderr().contains(&format!("{moved}/recovered")), "{}", running.stderr());
        assert!(!there.exists(), "nothing is in the way of what is put back");
        if !running.is_alive() {
            Millrace::run(&workspace, "recovered.yaml").finish().expect_code(1).expect_stderr(&["put the folder back"]);
        }
        fs::rename(&away, &there).unwrap();
        running.kill();
        Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
        expect_whole(&workspace);
    }
}

#[test]
fn a_data_folder_that_notes_no_checkpoint_goes_on_from_one_and_a_new_one_from_what_another_has_kept() {
    let (workspace, _) = killed_with(", storage: kept", "kept");
    let note = workspace.join("data/decided");
    // As an older release has left it.
    fs::remove_file(&note).unwrap();
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    Deadline::secs(60).wait_for("the note", || note.exists().then_some(()));
    running.terminate();
    running.wait().expect_success();
    fs::rename(workspace.join("data"), workspace.join("older")).unwrap();
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    assert!(note.exists());
    expect_whole(&workspace);
}

#[test]
fn a_savepoint_whose_manifest_is_damaged_can_be_deleted_and_checkpoints_go_again() {
    let workspace = Workspace::new();
    workspace.write("recovered.yaml", pipeline("100ms"));
    let running = Millrace::run(&workspace, "recovered.yaml").start();
    Deadline::secs(60).wait_for("the start", || running.stderr().contains("running").then_some(()));
    let savepoint = checkpoints(&workspace, &["savepoint", "--data-dir", "data"]).expect_success().stdout;
    let savepoint = savepoint.trim();
    let store = workspace.join("data/checkpoints/recovered");
    let manifest = store.join(format!("savepoints/{savepoint}.json"));
    damage(&manifest);
    let manifests = || read::all_files(&store.join("manifests")).len();
    // What the damaged one needs is not known: nothing is deleted while it is there.
    Deadline::secs(60).wait_for("checkpoints that stay", || (manifests() > 4).then_some(()));
    checkpoints(&workspace, &["delete", "--data-dir", "data", savepoint]).expect_success();
    assert!(!manifest.exists());
    Deadline::secs(60).wait_for("checkpoints that go", || (manifests() <= 4).then_some(()));
    running.terminate();
    running.wait().expect_success();
    Millrace::run(&workspace, "recovered.yaml").finish().expect_success();
    expect_whole(&workspace);
}
