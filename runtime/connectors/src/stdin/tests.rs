#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::AsArray,
    datatypes::{DataType, Field, Int64Type, Schema},
};
use millrace_crds::{ColumnSpec, ColumnType, FormatSpec, JsonFormat, OnError};
use millrace_stream::{ManualClock, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn source() -> StdinSource {
    StdinSource::new(&SourceSpec {
        name: "rows".to_owned(),
        generator: None,
        file: None,
        stdin: Some(millrace_crds::StdinSource {}),
        format: Some(FormatSpec { json: Some(JsonFormat::default()), ..FormatSpec::default() }),
        columns: vec![ColumnSpec::new("n", &ColumnType::BigInt)],
        event_time: None,
        on_error: OnError::Drop,
    })
}

fn cx(restored: Vec<(SplitId, ReplayPoint)>) -> SourceContext {
    SourceContext {
        index: 0,
        parallelism: 1,
        resumes: !restored.is_empty(),
        restored: restored.into_iter().collect::<BTreeMap<_, _>>(),
        schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)])),
        batch_rows: 8192,
        clock: Arc::new(ManualClock::at(Timestamp(0))),
        scratch: std::path::PathBuf::new(),
    }
}

#[test]
fn the_input_is_read_to_its_end_and_cannot_be_resumed_before_it() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let text: String = (0..100_000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>() + "x\n{\"n\":100000}";
        let mut reader = source().open_input(cx(Vec::new()), io::Cursor::new(text)).unwrap();
        let mut read = Vec::new();
        let mut refused = false;
        loop {
            match reader.next().await.unwrap() {
                Read::Rows { rows, .. } => read.extend(rows.column(0).as_primitive::<Int64Type>().values().to_vec()),
                Read::SplitEnded(_) => {}
                _ => break,
            }
            if !refused {
                refused = true;
                let error = source().open_input(cx(reader.replay_points()), io::empty()).err().unwrap().to_string();
                assert!(error.starts_with("source rows: standard input cannot be read again"), "{error}");
            }
        }
        assert_eq!(read, (0..=100_000).collect::<Vec<_>>());
        assert_eq!(reader.bad_rows(), 1);
        let mut finished = source().open_input(cx(reader.replay_points()), io::empty()).unwrap();
        assert!(matches!(finished.next().await.unwrap(), Read::Ended));
    });
}

proptest! {
    #[test]
    fn no_replay_point_makes_it_read_again_what_was_read(
        version in prop_oneof![Just(json!(1)), any::<u64>().prop_map(Value::from), Just(Value::Null)],
        offset in prop_oneof![any::<u64>().prop_map(Value::from), any::<i64>().prop_map(Value::from), Just(json!("7"))],
        ended in prop_oneof![any::<bool>().prop_map(Value::from), Just(json!(1)), Just(Value::Null)],
        other in prop_oneof![Just(json!([])), Just(Value::Null), any::<f64>().prop_map(Value::from)],
        is_other: bool,
    ) {
        let point = if is_other { other } else { json!({"version": version, "offset": offset, "ended": ended}) };
        let restored = vec![(split(), ReplayPoint(point.clone()))];
        let opened = source().open_input(cx(restored), io::Cursor::new("{\"n\":1}\n"));
        let is_known = point["version"] == json!(1) && point["offset"].is_u64() && point["ended"].is_boolean();
        let went_on = point["offset"].as_u64().is_some_and(|offset| offset > 0);
        match opened {
            Ok(mut reader) => {
                prop_assert!(is_known && (!went_on || point["ended"] == json!(true)), "{point}");
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let first = runtime.block_on(reader.next()).unwrap();
                prop_assert_eq!(matches!(first, Read::Ended), point["ended"] == json!(true));
            }
            Err(error) => prop_assert!(!is_known || went_on, "{error}"),
        }
    }
}
