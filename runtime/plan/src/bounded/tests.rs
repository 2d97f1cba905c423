#![allow(clippy::unwrap_used)]

use arrow::{
    array::ListArray,
    datatypes::{Field, IntervalMonthDayNanoType},
};
use datafusion_common::{ScalarValue, config::ConfigOptions};

use super::*;
use crate::functions::functions;

fn call_with(name: &str, args: Vec<ScalarValue>, rows: usize) -> Result<ColumnarValue> {
    let function = functions().scalar(name).unwrap();
    let fields: Vec<_> = args.iter().map(|arg| Arc::new(Field::new("a", arg.data_type(), true))).collect();
    let scalar_arguments: Vec<_> = args.iter().map(Some).collect();
    let given = ReturnFieldArgs { arg_fields: &fields, scalar_arguments: &scalar_arguments };
    let return_field = function.return_field_from_args(given)?;
    function.invoke_with_args(ScalarFunctionArgs {
        args: args.into_iter().map(ColumnarValue::Scalar).collect(),
        arg_fields: fields,
        number_rows: rows,
        return_field,
        config_options: Arc::new(ConfigOptions::default()),
    })
}

fn call(name: &str, text: &str, count: i64, rows: usize) -> Result<ColumnarValue> {
    call_with(name, vec![ScalarValue::Utf8View(Some(text.to_owned())), ScalarValue::Int64(Some(count))], rows)
}

/// A moment so many days after 1970.
fn moment(days: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(days * 86_400_000_000), Some("UTC".into()))
}

fn interval(months: i32, days: i32, nanos: i64) -> ScalarValue {
    ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNanoType::make_value(months, days, nanos)))
}

#[test]
fn values_without_bounds_are_errors_and_take_no_memory() {
    for (name, parts) in [
        ("lpad", "characters"),
        ("rpad", "characters"),
        ("repeat", "bytes"),
        ("array_repeat", "entries"),
        ("list_repeat", "entries"),
    ] {
        for count in [(1 << 20) + 1, i64::from(i32::MAX), i64::MAX] {
            let error = call(name, "x", count, 1).unwrap_err().to_string();
            assert!(error.contains(&format!("would make a value of {count} {parts}")), "{name} {count}: {error}");
        }
    }
    let error = call("repeat", "a long text", 1 << 18, 1).unwrap_err().to_string();
    assert!(error.contains("would make a value of 2883584 bytes, and may make one of 1048576"), "{error}");
}

#[test]
fn ranges_without_bounds_are_errors_and_take_no_memory() {
    let number = |number: i64| ScalarValue::Int64(Some(number));
    let day = |day: i32| ScalarValue::Date32(Some(day));
    let cases = [
        ("range", vec![number(1_048_577)], "1048577"),
        ("range", vec![number(i64::MIN), number(i64::MAX)], "18446744073709551615"),
        ("generate_series", vec![number(1), number(1_048_577)], "1048577"),
        ("generate_series", vec![number(i64::MAX), number(i64::MIN), number(-1)], "1152921504606846975"),
        ("range", vec![number(0), number(-10_000_000), number(-3)], "3333334"),
        ("range", vec![day(0), day(2_000_000), interval(0, 1, 0)], "2000000"),
        ("generate_series", vec![moment(0), moment(365), interval(0, 0, 1_000_000)], "31536000001"),
        ("range", vec![moment(365), moment(0), interval(0, 0, -1)], "31536000000000000"),
    ];
    for (name, args, entries) in cases {
        let error = call_with(name, args, 1).unwrap_err().to_string();
        let told = format!("`{name}` would make a value of {entries} entries, and may make one of 1048576");
        assert!(error.contains(&told), "{error}");
    }
    let error = call_with("range", vec![number(1 << 12)], 8192).unwrap_err().to_string();
    assert!(error.contains("`range` would make 536870912 bytes of 8192 rows at once"), "{error}");
}

#[test]
fn a_step_that_goes_forward_and_back_is_an_error() {
    for step in [interval(1, -31, 0), interval(-1, 31, 0), interval(0, 1, -86_400_000_000_000)] {
        for ends in [[moment(0), moment(10)], [ScalarValue::Date32(Some(0)), ScalarValue::Date32(Some(10))]] {
            let [start, stop] = ends;
            let error = call_with("range", vec![start, stop, step.clone()], 1).unwrap_err().to_string();
            assert!(error.contains("a step goes one way"), "{error}");
        }
    }
}

#[test]
fn entries_of_a_range_are_reckoned_as_they_are_made() {
    let both = |name: &str, args: Vec<ScalarValue>| {
        let arrays: Vec<ArrayRef> = args.iter().map(|arg| arg.to_array().unwrap()).collect();
        let reckoned = range::counts(name, &arrays, name == "generate_series").unwrap()[0];
        let list = call_with(name, args, 1).unwrap().to_array(1).unwrap();
        let list: &ListArray = list.as_list();
        (reckoned, list.value(0).len() as u64)
    };
    for name in ["range", "generate_series"] {
        for (start, stop, step) in
            [(0, 10, 1), (0, 10, 3), (0, 9, 3), (10, 0, -1), (10, 0, -4), (0, 10, -1), (3, 3, 2), (5, 3, 1)]
        {
            let args = [start, stop, step].map(|number| ScalarValue::Int64(Some(number)));
            let (reckoned, count) = both(name, args.to_vec());
            assert_eq!(reckoned, count, "{name} {start} {stop} {step}");
            let args = vec![moment(start), moment(stop), interval(0, i32::try_from(step).unwrap(), 0)];
            assert_eq!(both(name, args), (count, count), "{name} {start} {stop} {step} days");
        }
        // Months are reckoned as the shortest.
        let (reckoned, made) = both(name, vec![moment(0), moment(3_650), interval(1, 0, 0)]);
        assert!(reckoned >= made && reckoned <= made + made / 8, "{reckoned} {made}");
    }
}

#[test]
fn a_batch_of_great_values_is_an_error() {
    let error = call("lpad", "x", 1 << 16, 8192).unwrap_err().to_string();
    assert!(error.contains("would make 536870912 bytes of 8192 rows"), "{error}");
}

#[test]
fn what_is_in_an_entry_counts() {
    let error = call("array_repeat", &"x".repeat(1 << 20), 1 << 10, 1).unwrap_err().to_string();
    assert!(error.contains("`array_repeat` would make 1073758208 bytes of one row"), "{error}");
    let entry = call("array_repeat", "x", 1 << 14, 1).unwrap().to_array(1).unwrap();
    let list = ScalarValue::try_from_array(&entry, 0).unwrap();
    let error = call_with("array_repeat", vec![list.clone(), ScalarValue::Int64(Some(1 << 14))], 1).unwrap_err();
    assert!(error.to_string().contains("`array_repeat` would make"), "{error}");
    let fill = ScalarValue::Utf8View(Some("x".repeat(1 << 20)));
    let error = call_with("array_resize", vec![list, ScalarValue::Int64(Some(1 << 15)), fill], 1).unwrap_err();
    assert!(error.to_string().contains("`array_resize` would make"), "{error}");
}

#[test]
fn what_is_within_the_bounds_is_made_as_before() {
    for (name, length) in [("lpad", 5), ("rpad", 5), ("repeat", 10)] {
        let made = call(name, "ab", 5, 1).unwrap().to_array(1).unwrap();
        let made = cast(&made, &DataType::Utf8View).unwrap();
        assert_eq!(made.as_string_view().value(0).len(), length, "{name}");
    }
    for count in [0, -1] {
        call("lpad", "ab", count, 1).unwrap();
    }
}
