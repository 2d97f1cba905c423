//! Session windows against a model that keeps the rows of each session.

use std::collections::BTreeMap;

use millrace_plan::{KeyedOp, WindowKind};

use super::{
    Random,
    aligned::{Results, Row, batch_of, generic, generic_results, input, instant, native, native_results, random_rows},
    fleet::Fleet,
    for_seeds, lines, or_dash, plans,
};
use crate::operator::Emitted;

struct Session {
    start: i64,
    last: i64,
    rows: Vec<Row>,
}

/// Gaps of up to so many milliseconds.
fn run(seed: u64, budget: usize, longest_gap: i64) {
    let mut random = Random::new(seed);
    let gap = 1 + random.between(0, longest_gap);
    let lateness = [0, 1000][random.below(2) as usize];
    let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
    let (aggregates, results): (_, Results) =
        if seed % 3 == 2 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
    let plan = plans::window(WindowKind::Session { gap_ms: gap }, lateness, &input(), &keys, aggregates);
    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(2) as u32 };
    let mut fleet = Fleet::new(KeyedOp::Window(plan), keys.clone(), tasks, budget, 9);
    let key_of = |row: &Row| -> Vec<String> {
        let part = |key: &usize| if *key == 1 { or_dash(row.name.as_ref()) } else { or_dash(row.number) };
        keys.iter().map(part).collect()
    };
    let mut open: BTreeMap<Vec<String>, Vec<Session>> = BTreeMap::new();
    let close = |open: &mut BTreeMap<Vec<String>, Vec<Session>>, watermark: i64| {
        let mut expected = Vec::new();
        for (key, sessions) in open.iter_mut() {
            for session in sessions.extract_if(.., |session| session.last.saturating_add(gap) <= watermark) {
                let end = session.last + gap;
                let mut columns = vec![instant(end - 1), instant(session.start), instant(end), "0".into()];
                columns.extend(key.iter().cloned());
                columns.extend(results(&session.rows.iter().collect::<Vec<_>>()));
                expected.push(columns.join(" | "));
            }
        }
        expected.sort();
        expected
    };
    let distinct = 10 + 10 * random.below(10);
    let (mut now, mut watermark, mut late, mut seen_late, mut spilled) = (0_i64, i64::MIN, 0, 0, 0);
    for step in 0..60 {
        let mut out = Emitted::default();
        let mut expected = Vec::new();
        match random.below(8) {
            0..=3 => {
                let rows = random_rows(&mut random, now - 2500..now + 1500, distinct);
                fleet.process(&batch_of(&rows), &mut out);
                for row in rows {
                    if watermark > i64::MIN && row.time + gap + lateness <= watermark {
                        late += 1;
                        continue;
                    }
                    let sessions = open.entry(key_of(&row)).or_default();
                    let mut joined = Session { start: row.time, last: row.time, rows: vec![row] };
                    let time = joined.start;
                    let touching = sessions
                        .extract_if(.., |session| session.start - time < gap && time - session.last < gap)
                        .collect::<Vec<_>>();
                    for session in touching {
                        joined.start = joined.start.min(session.start);
                        joined.last = joined.last.max(session.last);
                        joined.rows.extend(session.rows);
                    }
                    sessions.push(joined);
                }
            }
            4..=6 => {
                now += random.between(0, 1500);
                if now - 300 > watermark {
                    watermark = now - 300;
                    expected = close(&mut open, watermark);
                }
                fleet.advance(watermark, &mut out);
            }
            _ if fleet.is_frozen() => drop(fleet.write()),
            _ => {
                fleet.freeze(&mut out);
                spilled += fleet.stats().iter().map(|stats| stats.spilled_bytes).sum::<u64>();
                if random.one_in(2) {
                    let later: Vec<_> =
                        (0..4).map(|_| batch_of(&random_rows(&mut random, now..now + 500, 60))).collect();
                    let checkpoint = fleet.write_late(&later, watermark + 1000);
                    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
                    fleet.restart(tasks, &checkpoint);
                } else if random.one_in(2) {
                    let _ = fleet.write();
                }
            }
        }
        seen_late += out.late.iter().map(|rows| rows.num_rows()).sum::<usize>();
        assert_eq!(lines(&out.rows), expected, "step {step}");
    }
    if fleet.is_frozen() {
        let _ = fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    assert_eq!(lines(&out.rows), close(&mut open, i64::MAX), "at the end");
    assert_eq!(seen_late, late);
    assert!(budget > 1 << 20 || spilled > 0 || !keys.contains(&1), "a small budget makes it spill");
    assert_eq!(fleet.stats().iter().map(|stats| stats.entries).sum::<u64>(), 0, "nothing is left");
}

#[test]
fn sessions_agree_with_the_model() {
    for_seeds(24, |seed| run(seed, 64 << 20, 800));
}

#[test]
fn sessions_that_do_not_fit_the_budget_are_read_back() {
    for_seeds(12, |seed| run(seed, 2000, 800));
}

#[test]
fn many_open_sessions_of_a_key_agree_with_the_model() {
    for_seeds(24, |seed| run(seed, 64 << 20, 20));
    for_seeds(12, |seed| run(seed, 2000, 20));
}
