#![allow(clippy::unwrap_used)]

use super::*;
use crate::ErrorKind;

fn opener() -> Opener {
    Opener::this_process(Timestamp(1_790_000_000_000), "instance-1".into())
}

#[test]
fn a_second_opener_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let held = DataFolder::open(folder.path(), &opener()).unwrap();
    let error = DataFolder::open(folder.path(), &opener()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("in use by process {}", std::process::id())), "{text}");
    assert!(text.contains("since 2026-09-21T14:13:20Z"), "{text}");
    assert_eq!(error.kind(), ErrorKind::FixSpec);
    assert_eq!(DataFolder::holder(folder.path()).unwrap().unwrap().pid, std::process::id());
    drop(held);
    assert_eq!(DataFolder::holder(folder.path()).unwrap(), None);
    DataFolder::open(folder.path(), &opener()).unwrap();
}

#[test]
fn a_folder_takes_the_id_of_what_it_goes_on_from_and_a_new_one_where_it_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), &opener()).unwrap();
    data.adopt_instance("of-the-savepoint").unwrap();
    assert_eq!(data.instance(), "of-the-savepoint");
    drop(data);
    let second = Opener { fresh_instance: "instance-2".into(), ..opener() };
    let data = DataFolder::open(folder.path(), &second).unwrap();
    assert_eq!(data.instance(), "of-the-savepoint");
    data.renew_instance().unwrap();
    assert_eq!(data.instance(), "instance-2");
    assert_eq!(DataFolder::instance_of(folder.path()).unwrap().unwrap(), "instance-2");
}

#[test]
fn the_instance_is_kept_and_generations_only_rise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    for expected in 1..=3 {
        let other = Opener { fresh_instance: format!("instance-{expected}"), ..opener() };
        let data = DataFolder::open(&path, &other).unwrap();
        assert_eq!(data.instance(), "instance-1");
        assert_eq!(data.next_generation(None).unwrap(), Generation(expected));
    }
    let data = DataFolder::open(&path, &opener()).unwrap();
    assert_eq!(data.next_generation(Some(Generation(9))).unwrap(), Generation(10));
    assert_eq!(data.next_generation(Some(Generation(9))).unwrap(), Generation(11));
    assert_eq!(DataFolder::instance_of(&path).unwrap().unwrap(), "instance-1");
}

#[test]
fn a_damaged_counter_is_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), &opener()).unwrap();
    data.next_generation(None).unwrap();
    let path = folder.path().join(GENERATION);
    let mut damaged = fs::read(&path).unwrap();
    let last = damaged.len() - 2;
    damaged[last] ^= 1;
    fs::write(&path, damaged).unwrap();
    let error = data.next_generation(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[test]
fn a_file_and_a_folder_with_other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("holiday.jpg"), b"").unwrap();
    let error = DataFolder::open(folder.path(), &opener()).unwrap_err();
    assert!(error.to_string().contains("holds other files (holiday.jpg)"), "{error}");
    let error = DataFolder::open(&folder.path().join("holiday.jpg"), &opener()).unwrap_err();
    assert!(error.to_string().ends_with("holiday.jpg is not a folder"), "{error}");
}

#[test]
fn a_folder_whose_layout_was_removed_is_still_known_and_one_with_a_like_name_in_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("pipeline")).unwrap();
    let error = DataFolder::open(folder.path(), &opener()).unwrap_err();
    assert!(error.to_string().contains("holds other files (pipeline)"), "{error}");
    fs::remove_dir(folder.path().join("pipeline")).unwrap();
    drop(DataFolder::open(folder.path(), &opener()).unwrap());
    fs::write(folder.path().join("pipeline"), b"").unwrap();
    fs::remove_file(folder.path().join(LAYOUT)).unwrap();
    drop(DataFolder::open(folder.path(), &opener()).unwrap());
    assert!(folder.path().join(LAYOUT).exists());
}

#[test]
fn a_folder_that_cannot_be_written_is_for_the_user() {
    // Nobody, root included, makes folders there.
    let error = DataFolder::open(Path::new("/proc/self/millrace"), &opener()).unwrap_err();
    assert!(matches!(error, StateError::NoDataFolder { .. }), "{error}");
    assert!(error.to_string().contains("/proc/self/millrace"), "{error}");
}

#[test]
fn a_folder_of_a_newer_layout_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(DataFolder::open(folder.path(), &opener()).unwrap());
    fs::write(folder.path().join(LAYOUT), envelope::seal(LAYOUT, 2, &1)).unwrap();
    let error = DataFolder::open(folder.path(), &opener()).unwrap_err();
    assert!(matches!(error, StateError::TooNew { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn what_was_half_written_at_the_start_is_gone_at_the_next() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".tmp-1-1"), b"half").unwrap();
    drop(DataFolder::open(folder.path(), &opener()).unwrap());
    assert!(!folder.path().join(".tmp-1-1").exists());
}

#[test]
fn the_newest_decided_checkpoint_is_noted_until_that_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let has_decided = || DataFolder::has_decided(folder.path()).unwrap();
    assert!(!has_decided());
    let data = DataFolder::open(folder.path(), &opener()).unwrap();
    assert!(!has_decided());
    assert_eq!(data.newest_decided().unwrap(), None);
    for (epoch, noted) in [(3, 3), (9, 9), (4, 9)] {
        data.note_decided(Epoch(epoch)).unwrap();
        assert!(has_decided());
        assert_eq!(data.newest_decided().unwrap(), Some(Epoch(noted)));
    }
    // The epochs of another instance are others.
    data.adopt_instance("another").unwrap();
    assert!(has_decided() && data.newest_decided().unwrap().is_none());
    data.note_decided(Epoch(2)).unwrap();
    assert_eq!(data.newest_decided().unwrap(), Some(Epoch(2)));
    // A note of before has no instance.
    fs::write(folder.path().join(DECIDED), envelope::seal(DECIDED, VERSION, &Epoch(7))).unwrap();
    assert!(has_decided() && data.newest_decided().unwrap().is_none());
    // What a newer release says is left as it is.
    let newer = envelope::seal(DECIDED, VERSION + 1, &"more");
    fs::write(folder.path().join(DECIDED), &newer).unwrap();
    data.note_decided(Epoch(9)).unwrap();
    assert!(has_decided() && fs::read(folder.path().join(DECIDED)).unwrap() == newer);
    assert_eq!(data.newest_decided().unwrap(), None);
    // Without its layout the folder is still ours.
    drop(data);
    fs::remove_file(folder.path().join(LAYOUT)).unwrap();
    let data = DataFolder::open(folder.path(), &opener()).unwrap();
    data.forget_decided().unwrap();
    data.forget_decided().unwrap();
    assert!(!has_decided());
}

#[test]
fn version_1_is_what_the_golden_files_hold() {
    let sealed = envelope::seal(GENERATION, VERSION, &Generation(7));
    crate::golden::check("generation-1.json", &sealed);
    crate::golden::check("layout-1.json", &envelope::seal(LAYOUT, VERSION, &Layout { layout: VERSION }));
    crate::golden::check("instance-1.json", &envelope::seal(INSTANCE, VERSION, &"instance-1"));
    crate::golden::check("decided-1.json", &envelope::seal(DECIDED, VERSION, &Epoch(7)));
}

#[test]
fn names_of_stages_make_file_names_that_do_not_meet() {
    let name = |stage: &str, index| task_name(&TaskId { stage: stage.into(), index });
    assert_eq!(name("by_tenant.top", 2), "by_tenant.top-2");
    assert_eq!(name("a->b", 0), "a-%3Eb-0");
    assert_eq!(name("../x", 0), "%2E.%2Fx-0");
    assert_ne!(name("a-1", 0), name("a", 10));
}

#[test]
fn folders_of_tasks_that_are_no_more_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let data = DataFolder::open(folder.path(), &opener()).unwrap();
    let task = |index| TaskId { stage: "counts".into(), index };
    for index in 0..2 {
        fs::create_dir_all(data.task_checkpoint(&task(index), Epoch(3))).unwrap();
        fs::create_dir_all(data.task_checkpoint(&task(index), Epoch(20))).unwrap();
        fs::create_dir_all(data.task_store(&task(index))).unwrap();
    }
    assert_eq!(data.task_checkpoints(&task(0)).unwrap(), [Epoch(3), Epoch(20)]);
    data.retain_tasks([&task(1)]).unwrap();
    assert!(!data.task_folder(&task(0)).exists());
    assert!(data.task_store(&task(1)).exists());
}

#[test]
fn a_moment_is_shown_as_a_date() {
    assert_eq!(Utc(Timestamp(0)).to_string(), "1970-01-01T00:00:00Z");
    assert_eq!(Utc(Timestamp(951_782_400_000)).to_string(), "2000-02-29T00:00:00Z");
    assert_eq!(Utc(Timestamp(1_767_225_599_999)).to_string(), "2025-12-31T23:59:59Z");
}
