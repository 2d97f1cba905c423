//! A volume that is full.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::Path,
};

use millrace_tests::{cluster, coordination::Site};
use serde_json::Value;

use super::flow::{Flow, RATE, Shape, condition, is_unready};

const SMALL: Shape =
    Shape { more: "  deployment: {volume: {size: 96Mi, storageClassName: bounded}}\n", ..Shape::PLAIN };
const SAYS: &str = "No space left on device";

#[test]
fn a_full_volume_is_told_damages_nothing_and_is_gone_on_from_when_there_is_room() {
    let Some(cluster) = cluster::cluster() else { return };
    if !cluster.is_ours() {
        println!("skipped: only volumes of this machine can be filled");
        return;
    }
    let site = Site::over(cluster.namespace("full"));
    let installed = site.namespace().install(&["replicas=1"]);
    let flow = Flow::start(&site, "numbers", RATE * 150, SMALL);
    let life = flow.life();
    let volume = site.namespace().volume("data-numbers-0");
    let ballast = volume.join("ballast");
    fill(&ballast);
    let status = flow.expect_status("a word of the full volume", |status| is_unready(status, SAYS));
    println!("{:#}", status["conditions"]);
    flow.expect_status("a pipeline that has failed", |status| status["phase"] == "Failed" && is_unready(status, SAYS));
    assert_eq!(flow.life(), life, "nothing crashes");
    expect_whole(&flow);

    // A start on a full volume fails as clearly, and no worse.
    site.namespace().signal("KILL", &flow.pod);
    let (uid, restarts) = life.unwrap();
    flow.expect_status("the container started again", |_| flow.life() == Some((uid.clone(), restarts + 1)));
    flow.expect_status("a word of the full volume again", |status| {
        status["phase"] == "Failed" && is_unready(status, SAYS)
    });
    expect_whole(&flow);

    std::fs::remove_file(&ballast).unwrap();
    let waited = flow.expect_more(flow.files(), "rows when there is room again");
    println!("rows again {waited:.1?} after there was room");
    let is_well =
        |status: &Value| ["Ready", "CheckpointHealthy"].iter().all(|kind| condition(status, kind).0 == "True");
    flow.expect_status("all well", is_well);
    assert_eq!(flow.life(), Some((uid, restarts + 1)));
    flow.expect_exactly_once();
    installed.expect_nothing_forbidden();
}

/// Writes until there is no room for a byte more.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut piece = vec![0; 1 << 20];
    while !piece.is_empty() {
        match file.write(&piece) {
            Ok(0) => piece.truncate(piece.len() / 2),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece.truncate(piece.len() / 2),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }
}

/// What readers see is every row up to some row, once.
fn expect_whole(flow: &Flow<'_>) {
    let rows = flow.passed();
    assert!(!rows.is_empty());
    assert!(rows.iter().map(|(id, _)| *id).eq((0..).step_by(10).take(rows.len())), "rows are missing, or there twice");
}
