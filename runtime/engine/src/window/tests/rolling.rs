//! Rolling windows against a model that looks at every pair of rows.

use arrow::datatypes::Field;
use millrace_plan::{KeyedOp, WindowKind};

use super::{
    Random,
    aligned::{Results, Row, batch_of, generic, generic_results, input, instant, native, native_results, random_rows},
    fleet::Fleet,
    for_seeds, lines, or_dash, plans,
};
use crate::operator::Emitted;

fn run(seed: u64, budget: usize) {
    let mut random = Random::new(seed);
    let range = 1 + random.between(0, 3000);
    let lateness = [0, 1000][random.below(2) as usize];
    let keys = [vec![1], vec![2], vec![1, 2], vec![]][seed as usize % 4].clone();
    let (aggregates, results): (_, Results) =
        if seed % 3 == 2 { (generic(&input()), generic_results) } else { (native(&input()), native_results) };
    let mut plan = plans::window(WindowKind::Rolling { range_ms: range }, lateness, &input(), &keys, aggregates);
    plan.carried = vec![3];
    let mut fields: Vec<Field> = plan.output.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.insert(4 + keys.len(), input().field(3).clone());
    plan.output = arrow::datatypes::Schema::new(fields).into();
    let tasks = if keys.is_empty() { 1 } else { 1 + random.below(2) as u32 };
    let mut fleet = Fleet::new(KeyedOp::Window(plan), keys.clone(), tasks, budget, 9);
    let key_of = |row: &Row| -> Vec<String> {
        let part = |key: &usize| if *key == 1 { or_dash(row.name.as_ref()) } else { or_dash(row.number) };
        keys.iter().map(part).collect()
    };
    let line = |row: &Row, all: &[Row]| {
        let in_range =
            |other: &&Row| other.time > row.time - range && other.time <= row.time && key_of(other) == key_of(row);
        let rows: Vec<&Row> = all.iter().filter(in_range).collect();
        let mut columns = vec![instant(row.time), instant(row.time - range), instant(row.time), "0".into()];
        columns.extend(key_of(row));
        columns.push(or_dash(row.value));
        columns.extend(results(&rows));
        columns.join(" | ")
    };
    // All rows, those that wait for the watermark, those that came late and are allowed to.
    let (mut all, mut waiting, mut owed): (Vec<Row>, Vec<Row>, Vec<Row>) = Default::default();
    let (mut now, mut watermark, mut late, mut seen_late) = (0_i64, i64::MIN, 0, 0);
    for step in 0..40 {
        let mut out = Emitted::default();
        let mut expected = Vec::new();
        match random.below(8) {
            0..=3 => {
                let rows = random_rows(&mut random, now - 1500..now + 1500, 8);
                fleet.process(&batch_of(&rows), &mut out);
                for row in rows {
                    if row.time >= watermark {
                        waiting.push(row.clone());
                    } else if row.time >= watermark.saturating_sub(lateness) {
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
                    expected.extend(owed.drain(..).map(|row| line(&row, &all)));
                    let due = waiting.extract_if(.., |row| row.time < watermark).collect::<Vec<_>>();
                    expected.extend(due.iter().map(|row| line(row, &all)));
                }
                fleet.advance(watermark, &mut out);
            }
            _ if fleet.is_frozen() => drop(fleet.write()),
            _ => {
                fleet.freeze(&mut out);
                expected.extend(owed.drain(..).map(|row| line(&row, &all)));
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
        expected.sort();
        seen_late += out.late.iter().map(|rows| rows.num_rows()).sum::<usize>();
        assert_eq!(lines(&out.rows), expected, "step {step}");
    }
    if fleet.is_frozen() {
        let _ = fleet.write();
    }
    let mut out = Emitted::default();
    fleet.advance(i64::MAX, &mut out);
    let mut expected: Vec<String> = owed.iter().chain(&waiting).map(|row| line(row, &all)).collect();
    expected.sort();
    assert_eq!(lines(&out.rows), expected, "at the end");
    assert_eq!(seen_late, late);
}

#[test]
fn rolling_windows_agree_with_the_model() {
    for_seeds(16, |seed| run(seed, 64 << 20));
}

#[test]
fn rolling_windows_that_do_not_fit_the_budget_are_read_back() {
    for_seeds(8, |seed| run(seed, 4000));
}
