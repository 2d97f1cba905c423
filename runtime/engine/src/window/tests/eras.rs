//! Windows whose lengths change, against models that know every definition from the beginning.

use std::collections::BTreeMap;

use arrow::datatypes::{Field, Schema};
use millrace_plan::{KeyedOp, WindowAggregate, WindowKind};

use super::{
    Random,
    aligned::{
        LONG_AFTER_MS, Results, Row, batch_of, generic, generic_results, input, instant, native, native_results,
        random_row, random_rows,
    },
    fleet::Fleet,
    for_seeds, lines, or_dash, plans,
};
use crate::operator::Emitted;

fn key_of(keys: &[usize], row: &Row) -> Vec<String> {
    let part = |key: &usize| if *key == 1 { or_dash(row.name.as_ref()) } else { or_dash(row.number) };
    keys.iter().map(part).collect()
}

fn window(kind: WindowKind, lateness: i64, keys: &[usize], seed: u64) -> (WindowAggregate, Results) {
    let (aggregates, results): (_, Results) =
        if seed % 4 == 3 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
    (plans::window(kind, lateness, &input(), keys, aggregates), results)
}

/// A definition and from when on it holds.
#[derive(Clone, Copy, Debug)]
struct Definition {
    from: i64,
    kind: WindowKind,
    lateness: i64,
    /// Windows that end by then stay closed.
    closed: i64,
}

/// The definitions of a window, each with the start of the next one.
#[derive(Clone, Debug)]
struct Definitions(Vec<Definition>);

impl Definitions {
    fn new(kind: WindowKind, lateness: i64) -> Self {
        Self(vec![Definition { from: i64::MIN, kind, lateness, closed: i64::MIN }])
    }

    fn change(
        &mut self,
        kind: WindowKind,
        lateness: i64,
        latest: i64,
        watermark: i64,
        fits: impl Fn(WindowKind, i64) -> bool,
    ) {
        let reached = latest.max(watermark);
        self.0.retain(|definition| definition.from <= reached && reached > i64::MIN);
        let from = match self.0.last_mut() {
            None => i64::MIN,
            Some(last) if last.kind == kind => {
                if lateness > last.lateness && watermark > i64::MIN {
                    last.closed = last.closed.max(watermark - last.lateness);
                }
                last.lateness = lateness;
                return;
            }
            Some(last) => {
                let old = last.kind;
                let passed = latest.max(watermark.saturating_sub(1)).max(last.from);
                (passed + 1..).find(|time| fits(old, *time) && fits(kind, *time)).unwrap()
            }
        };
        self.0.push(Definition { from, kind, lateness, closed: i64::MIN });
    }

    fn spans(&self) -> impl Iterator<Item = (Definition, i64)> {
        let next = self.0.iter().skip(1).map(|definition| definition.from).chain([i64::MAX]).collect::<Vec<_>>();
        self.0.clone().into_iter().zip(next)
    }

    fn at(&self, time: i64) -> Definition {
        *self.0.iter().rev().find(|definition| definition.from <= time).unwrap()
    }
}

fn lengths(kind: WindowKind) -> (i64, i64) {
    match kind {
        WindowKind::Tumbling { size_ms, .. } => (size_ms, size_ms),
        WindowKind::Hopping { size_ms, slide_ms, .. } => (size_ms, slide_ms),
        _ => unreachable!(),
    }
}

fn random_kind(random: &mut Random) -> WindowKind {
    let offset_ms = 0;
    match random.below(8) {
        0 => WindowKind::Tumbling { size_ms: 200, offset_ms },
        1 => WindowKind::Tumbling { size_ms: 300, offset_ms },
        2 => WindowKind::Tumbling { size_ms: 1000, offset_ms },
        3 => WindowKind::Hopping { size_ms: 1000, slide_ms: 250, offset_ms },
        4 => WindowKind::Hopping { size_ms: 600, slide_ms: 200, offset_ms },
        5 => WindowKind::Hopping { size_ms: 500, slide_ms: 100, offset_ms },
        6 => WindowKind::Hopping { size_ms: 900, slide_ms: 300, offset_ms },
        _ => WindowKind::Hopping { size_ms: 700, slide_ms: 300, offset_ms },
    }
}

/// By end, start and key: the rows, how often the result was corrected, whether it has changed since.
type Windows = BTreeMap<(i64, i64, Vec<String>), (Vec<Row>, i32, bool)>;

struct Aligned {
    definitions: Definitions,
    keys: Vec<usize>,
    results: Results,
    watermark: i64,
    latest: i64,
    windows: Windows,
    late: u64,
    emitted: Vec<String>,
}

impl Aligned {
    fn process(&mut self, rows: &[Row]) {
        for row in rows {
            self.latest = self.latest.max(row.time);
            let (mut falls, mut taken) = (false, false);
            for (definition, until) in self.definitions.spans() {
                let (size, slide) = lengths(definition.kind);
                let mut start = row.time - row.time.rem_euclid(slide);
                while start + size > row.time {
                    if start >= definition.from && start < until {
                        falls = true;
                        let end = start + size;
                        if end + definition.lateness > self.watermark && end > definition.closed {
                            taken = true;
                            let window = self.windows.entry((end, start, key_of(&self.keys, row))).or_default();
                            window.0.push(row.clone());
                            window.2 = end <= self.watermark;
                        }
                    }
                    start -= slide;
                }
            }
            self.late += u64::from(falls && !taken);
        }
    }

    fn emit(&mut self, due: impl Fn(i64, bool) -> bool, correct: bool) {
        for ((end, start, key), (rows, pane, changed)) in &mut self.windows {
            if !due(*end, *changed) {
                continue;
            }
            *changed = false;
            *pane += i32::from(correct);
            let mut columns = vec![instant(end - 1), instant(*start), instant(*end), pane.to_string()];
            columns.extend(key.iter().cloned());
            columns.extend((self.results)(&rows.iter().collect::<Vec<_>>()));
            self.emitted.push(columns.join(" | "));
        }
    }

    fn correct(&mut self) {
        self.emit(|_, changed| changed, true);
    }

    fn advance(&mut self, watermark: i64) {
        if watermark <= self.watermark {
            return;
        }
        self.correct();
        let before = self.watermark;
        self.emit(|end, _| end > before && end <= watermark, false);
        self.watermark = watermark;
        let lateness: Vec<(Definition, i64)> = self.definitions.spans().collect();
        self.windows.retain(|(end, start, _), _| {
            let (definition, _) = lateness.iter().find(|(era, until)| era.from <= *start && start < until).unwrap();
            end.saturating_add(definition.lateness) > watermark
        });
    }

    fn take(&mut self) -> Vec<String> {
        self.emitted.sort();
        std::mem::take(&mut self.emitted)
    }
}

fn run_aligned(seed: u64, budget: usize) {
    let mut random = Random::new(seed);
    let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
    let (kind, lateness) = (random_kind(&mut random), [0, 700][random.below(2) as usize]);
    let (plan, results) = window(kind, lateness, &keys, seed);
    let tasks = |random: &mut Random| if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
    let mut fleet = Fleet::new(KeyedOp::Window(plan), keys.clone(), tasks(&mut random), budget, 20);
    let mut model = Aligned {
        definitions: Definitions::new(kind, lateness),
        keys: keys.clone(),
        results,
        watermark: i64::MIN,
        latest: i64::MIN,
        windows: BTreeMap::new(),
        late: 0,
        emitted: Vec::new(),
    };
    let (mut now, mut late, mut eras) = (0_i64, 0, 1);
    for step in 0..90 {
        let mut out = Emitted::default();
        match random.below(10) {
            0..=4 => {
                let rows: Vec<Row> = (0..1 + random.below(60))
                    .map(|_| {
                        let time = if random.one_in(8) {
                            now - random.between(0, 4000)
                        } else {
                            now + random.between(-500, 500)
                        };
                        random_row(&mut random, time, 15)
                    })
                    .collect();
                fleet.process(&batch_of(&rows), &mut out);
                model.process(&rows);
            }
            5..=7 => {
                now += random.between(0, 700);
                let watermark = now - random.between(0, 400);
                fleet.advance(watermark, &mut out);
                model.advance(watermark);
            }
            kind => {
                fleet.freeze(&mut out);
                model.correct();
                let mut checkpoint = fleet.write();
                if kind == 9 {
                    let (kind, lateness) = (random_kind(&mut random), [0, 700][random.below(2) as usize]);
                    let op = KeyedOp::Window(window(kind, lateness, &keys, seed).0);
                    fleet.edit(op, tasks(&mut random), &mut checkpoint);
                    model.definitions.change(kind, lateness, model.latest, model.watermark, |kind, time| {
                        time.rem_euclid(lengths(kind).1) == 0
                    });
                } else if random.one_in(2) {
                    fleet.restart(tasks(&mut random), &checkpoint);
                }
            }
        }
        eras = eras.max(fleet.eras());
        late += out.late.iter().map(|rows| rows.num_rows() as u64).sum::<u64>();
        assert_eq!(lines(&out.rows), model.take(), "step {step}, {:?}", model.definitions);
        assert_eq!(late, model.late, "late rows at step {step}");
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    model.advance(i64::MAX);
    assert_eq!(lines(&out.rows), model.take(), "at the end");
    out = Emitted::default();
    fleet.advance(LONG_AFTER_MS, &mut out);
    assert!(out.rows.is_empty(), "after the end");
    assert_eq!(fleet.stats().iter().map(|stats| stats.entries).sum::<u64>(), 0, "nothing is left");
    let _ = (fleet.freeze(&mut out), fleet.write());
    assert_eq!(fleet.eras(), 1, "definitions whose windows are over are forgotten");
    assert!(eras > 1 || model.definitions.0.len() == 1, "edits were taken up");
}

#[test]
fn windows_that_have_begun_end_as_they_were_and_later_ones_are_as_the_edit_says() {
    for_seeds(16, |seed| run_aligned(seed, 64 << 20));
}

#[test]
fn changed_windows_that_do_not_fit_the_budget_are_merged_from_the_store() {
    for_seeds(8, |seed| run_aligned(seed, 4000));
}

#[test]
fn a_changed_range_holds_for_the_rows_that_come_after_the_edit() {
    for_seeds(12, |seed| {
        let mut random = Random::new(seed);
        let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
        let rolling = |range_ms: i64, lateness: i64| {
            let (mut plan, results) = window(WindowKind::Rolling { range_ms }, lateness, &keys, seed);
            plan.carried = vec![3];
            let mut fields: Vec<Field> = plan.output.fields().iter().map(|field| field.as_ref().clone()).collect();
            fields.insert(4 + keys.len(), input().field(3).clone());
            plan.output = Schema::new(fields).into();
            (KeyedOp::Window(plan), results)
        };
        let range_of = |kind: WindowKind| match kind {
            WindowKind::Rolling { range_ms } => range_ms,
            _ => unreachable!(),
        };
        let draw = |random: &mut Random| (1 + random.between(0, 3000), [0, 1000][random.below(2) as usize]);
        let (range, lateness) = draw(&mut random);
        let (op, results) = rolling(range, lateness);
        let tasks = |random: &mut Random| if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
        let mut fleet = Fleet::new(op, keys.clone(), tasks(&mut random), [64 << 20, 4000][seed as usize % 2], 9);
        let mut definitions = Definitions::new(WindowKind::Rolling { range_ms: range }, lateness);
        // Rows before this time may have been forgotten.
        let mut whole_from = i64::MIN;
        let (mut all, mut waiting, mut owed): (Vec<Row>, Vec<Row>, Vec<Row>) = Default::default();
        let (mut now, mut watermark, mut latest, mut late, mut seen_late) = (0_i64, i64::MIN, i64::MIN, 0, 0);
        for step in 0..60 {
            let mut out = Emitted::default();
            let mut due: Vec<Row> = Vec::new();
            match random.below(9) {
                0..=3 => {
                    let rows = random_rows(&mut random, now - 1500..now + 1500, 8);
                    fleet.process(&batch_of(&rows), &mut out);
                    for row in rows {
                        latest = latest.max(row.time);
                        let horizon = watermark.saturating_sub(definitions.at(row.time).lateness);
                        if row.time >= watermark {
                            waiting.push(row.clone());
                        } else if row.time >= horizon {
                            owed.push(row.clone());
                        } else {
                            late += 1;
                            continue;
                        }
                        all.push(row);
                    }
                }
                4..=6 => {
                    now += random.between(0, 2000);
                    if now - 300 > watermark {
                        watermark = now - 300;
                        due.append(&mut owed);
                        due.extend(waiting.extract_if(.., |row| row.time < watermark));
                    }
                    fleet.advance(watermark, &mut out);
                }
                what => {
                    fleet.freeze(&mut out);
                    due.append(&mut owed);
                    let mut checkpoint = fleet.write();
                    if what == 8 {
                        let shortest = definitions.spans().map(|(era, _)| range_of(era.kind)).min().unwrap();
                        whole_from = whole_from.max(watermark.saturating_sub(shortest));
                        let (range_ms, lateness) = draw(&mut random);
                        fleet.edit(rolling(range_ms, lateness).0, tasks(&mut random), &mut checkpoint);
                        let kind = WindowKind::Rolling { range_ms };
                        definitions.change(kind, lateness, latest, watermark, |_, _| true);
                    } else if random.one_in(2) {
                        fleet.restart(tasks(&mut random), &checkpoint);
                    }
                }
            }
            seen_late += out.late.iter().map(|rows| rows.num_rows()).sum::<usize>();
            let (mut expected, mut partial) = (Vec::new(), Vec::new());
            for row in &due {
                let range = range_of(definitions.at(row.time).kind);
                let in_range = |other: &&Row| {
                    other.time > row.time - range
                        && other.time <= row.time
                        && key_of(&keys, other) == key_of(&keys, row)
                };
                let rows: Vec<&Row> = all.iter().filter(in_range).collect();
                let mut columns = vec![instant(row.time), instant(row.time - range), instant(row.time), "0".into()];
                columns.extend(key_of(&keys, row));
                columns.push(or_dash(row.value));
                let known = columns.join(" | ");
                if row.time - range < whole_from {
                    partial.push(known);
                } else {
                    columns.extend(results(&rows));
                    expected.push(columns.join(" | "));
                }
            }
            let mut found = lines(&out.rows);
            for known in partial {
                let at = found
                    .iter()
                    .position(|line| line.starts_with(&known))
                    .expect("a row whose range reaches too far back");
                found.remove(at);
            }
            expected.sort();
            assert_eq!(found, expected, "step {step}, {definitions:?}");
            assert_eq!(seen_late, late, "late rows at step {step}");
        }
    });
}

#[derive(Clone)]
struct Session {
    start: i64,
    last: i64,
    gap: i64,
    rows: Vec<Row>,
}

impl Session {
    fn reaches(&self, other: &Self) -> bool {
        if self.start <= other.start { other.start - self.last < self.gap } else { self.start - other.last < other.gap }
    }
}

#[test]
fn a_changed_gap_holds_for_the_sessions_that_begin_after_the_edit() {
    for_seeds(16, |seed| {
        let mut random = Random::new(seed);
        let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
        let draw = |random: &mut Random| (1 + random.between(0, 800), [0, 1000][random.below(2) as usize]);
        let gap_of = |kind: WindowKind| match kind {
            WindowKind::Session { gap_ms } => gap_ms,
            _ => unreachable!(),
        };
        let (gap, lateness) = draw(&mut random);
        let (plan, results) = window(WindowKind::Session { gap_ms: gap }, lateness, &keys, seed);
        let tasks = |random: &mut Random| if keys.is_empty() { 1 } else { 1 + random.below(3) as u32 };
        let budget = [64 << 20, 2000][seed as usize % 2];
        let mut fleet = Fleet::new(KeyedOp::Window(plan), keys.clone(), tasks(&mut random), budget, 9);
        let mut definitions = Definitions::new(WindowKind::Session { gap_ms: gap }, lateness);
        let mut open: BTreeMap<Vec<String>, Vec<Session>> = BTreeMap::new();
        let distinct = 10 + 10 * random.below(6);
        let (mut now, mut watermark, mut latest, mut late, mut seen_late) = (0_i64, i64::MIN, i64::MIN, 0, 0);
        let close = |open: &mut BTreeMap<Vec<String>, Vec<Session>>, watermark: i64| {
            let mut expected = Vec::new();
            for (key, sessions) in open.iter_mut() {
                for session in sessions.extract_if(.., |session| session.last.saturating_add(session.gap) <= watermark)
                {
                    let end = session.last + session.gap;
                    let mut columns = vec![instant(end - 1), instant(session.start), instant(end), "0".into()];
                    columns.extend(key.iter().cloned());
                    columns.extend(results(&session.rows.iter().collect::<Vec<_>>()));
                    expected.push(columns.join(" | "));
                }
            }
            expected.sort();
            expected
        };
        for step in 0..80 {
            let mut out = Emitted::default();
            let mut expected = Vec::new();
            match random.below(9) {
                0..=3 => {
                    let rows: Vec<Row> = (0..1 + random.below(30))
                        .map(|_| {
                            let time = now + random.between(-1500, 1500);
                            random_row(&mut random, time, distinct)
                        })
                        .collect();
                    fleet.process(&batch_of(&rows), &mut out);
                    for row in rows {
                        let definition = definitions.at(row.time);
                        let gap = gap_of(definition.kind);
                        if watermark > i64::MIN && row.time + gap + definition.lateness <= watermark {
                            late += 1;
                            continue;
                        }
                        latest = latest.max(row.time);
                        let time = row.time;
                        let sessions = open.entry(key_of(&keys, &row)).or_default();
                        let goes_on =
                            |session: &mut Session| session.start <= time && time - session.last < session.gap;
                        let mut session = match sessions.extract_if(.., goes_on).next() {
                            None => Session { start: time, last: time, gap, rows: Vec::new() },
                            Some(session) => Session { last: session.last.max(time), ..session },
                        };
                        session.rows.push(row);
                        while let Some(at) = sessions.iter().position(|other| session.reaches(other)) {
                            let other = sessions.remove(at);
                            session.start = session.start.min(other.start);
                            session.last = session.last.max(other.last);
                            session.gap = session.gap.max(other.gap);
                            session.rows.extend(other.rows);
                        }
                        sessions.push(session);
                    }
                }
                4..=6 => {
                    now += random.between(0, 900);
                    if now - 300 > watermark {
                        watermark = now - 300;
                        expected = close(&mut open, watermark);
                    }
                    fleet.advance(watermark, &mut out);
                }
                what => {
                    fleet.freeze(&mut out);
                    let mut checkpoint = fleet.write();
                    if what == 8 {
                        let (gap_ms, lateness) = draw(&mut random);
                        let kind = WindowKind::Session { gap_ms };
                        let op = KeyedOp::Window(window(kind, lateness, &keys, seed).0);
                        fleet.edit(op, tasks(&mut random), &mut checkpoint);
                        definitions.change(kind, lateness, latest, watermark, |_, _| true);
                    } else if random.one_in(2) {
                        fleet.restart(tasks(&mut random), &checkpoint);
                    }
                }
            }
            seen_late += out.late.iter().map(|rows| rows.num_rows()).sum::<usize>();
            assert_eq!(lines(&out.rows), expected, "step {step}, {definitions:?}");
            assert_eq!(seen_late, late, "late rows at step {step}");
        }
        let mut out = Emitted::default();
        fleet.advance(i64::MAX, &mut out);
        assert_eq!(lines(&out.rows), close(&mut open, i64::MAX), "at the end");
        assert_eq!(fleet.stats().iter().map(|stats| stats.entries).sum::<u64>(), 0, "nothing is left");
    });
}

#[test]
fn the_worked_example_of_the_docs_comes_out_as_it_says() {
    const MINUTE: i64 = 60_000;
    let tumbling = |minutes: i64| {
        let kind = WindowKind::Tumbling { size_ms: minutes * MINUTE, offset_ms: 0 };
        KeyedOp::Window(plans::window(kind, 0, &input(), &[], native(&input())[..1].to_vec()))
    };
    let mut random = Random::new(0);
    let mut rows_at = |minutes: &[i64]| -> Vec<Row> {
        minutes.iter().map(|minute| random_row(&mut random, minute * MINUTE, 5)).collect()
    };
    let mut fleet = Fleet::new(tumbling(2), vec![], 1, 64 << 20, 10);
    let advance = |fleet: &mut Fleet, to: i64| {
        let mut out = Emitted::default();
        fleet.advance(to * MINUTE, &mut out);
        lines(&out.rows)
    };
    let line = |start: i64, end: i64, n: i64| {
        [instant(end * MINUTE - 1), instant(start * MINUTE), instant(end * MINUTE), "0".into(), n.to_string()]
            .join(" | ")
    };
    let mut out = Emitted::default();
    fleet.process(&batch_of(&rows_at(&[1, 7, 9])), &mut out);
    assert_eq!(advance(&mut fleet, 8), [line(0, 2, 1), line(6, 8, 1)]);
    fleet.freeze(&mut out);
    let mut checkpoint = fleet.write();
    fleet.edit(tumbling(3), 1, &mut checkpoint);
    fleet.process(&batch_of(&rows_at(&[10, 13, 14, 16])), &mut out);
    fleet.process(&batch_of(&rows_at(&[11])), &mut out);
    assert_eq!(advance(&mut fleet, 16), [line(8, 10, 1), line(10, 12, 2), line(12, 15, 2)]);
    assert_eq!(advance(&mut fleet, 18), [line(15, 18, 1)]);
    assert!(out.rows.is_empty() && out.late.is_empty());
}
