//! Functions that make as much as a number asks them to, kept from making more than a task has room for: what leaves the
//! bounds is an error of the expression.
//!
//! | bound | |
//! |---|---|
//! | one value | 1,048,576 characters or entries |
//! | the values of one batch together | 268,435,456 bytes |
//!
//! The sizes are reckoned from the arguments, before anything is made.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion_common::{Result, exec_err};
use datafusion_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    simplify::{ExprSimplifyResult, SimplifyContext},
};

/// The functions, and which of their arguments says how much.
const COUNTS: [(&str, usize); 5] = [("lpad", 1), ("rpad", 1), ("repeat", 1), ("array_repeat", 1), ("array_resize", 1)];
/// How many characters or entries one value may have.
const MAX_OF_VALUE: u64 = 1 << 20;
/// How many bytes the values of a batch may have.
const MAX_OF_BATCH: u64 = 1 << 28;
/// What an entry of a list is reckoned with.
const ENTRY_BYTES: u64 = 16;

/// A function that is held to the bounds, if it is one that could leave them.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match COUNTS.into_iter().find(|(name, _)| *name == function.name()) {
        Some((_, count)) => Arc::new(ScalarUDF::from(Bounded { inner: function, count })),
        None => function,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    count: usize,
}

impl Bounded {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        let name = self.inner.name();
        let Some(counts) = args.args.get(self.count) else { return Ok(()) };
        let counts = cast(&counts.to_array(args.number_rows)?, &DataType::Int64)?;
        let counts = counts.as_primitive::<Int64Type>();
        let bytes = match (name, args.args.first()) {
            ("repeat", Some(text)) => Some(cast(&text.to_array(args.number_rows)?, &DataType::Utf8View)?),
            _ => None,
        };
        let bytes = bytes.as_ref().map(|text| text.as_string_view());
        let of_one = if name.starts_with("array") { ENTRY_BYTES } else { 1 };
        let mut of_batch: u64 = 0;
        for row in (0..counts.len()).filter(|row| counts.is_valid(*row)) {
            let count = u64::try_from(counts.value(row)).unwrap_or(0);
            let repeated = bytes.map_or(1, |text| if text.is_null(row) { 0 } else { text.value(row).len() as u64 });
            let of_value = count.saturating_mul(repeated);
            if of_value > MAX_OF_VALUE {
                return exec_err!(
                    "`{name}` would make a value of {of_value} parts, and may make one of {MAX_OF_VALUE}"
                );
            }
            of_batch = of_batch.saturating_add(of_value * of_one);
        }
        if of_batch > MAX_OF_BATCH {
            return exec_err!(
                "`{name}` would make {of_batch} bytes of {} rows at once, and may make {MAX_OF_BATCH}",
                counts.len()
            );
        }
        Ok(())
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<arrow::datatypes::FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn simplify(&self, args: Vec<datafusion_expr::Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::datatypes::Field;
    use datafusion_common::{ScalarValue, config::ConfigOptions};

    use super::*;
    use crate::functions::functions;

    fn call(name: &str, text: &str, count: i64, rows: usize) -> Result<ColumnarValue> {
        let function = functions().scalar(name).unwrap();
        let args = [ScalarValue::Utf8View(Some(text.to_owned())), ScalarValue::Int64(Some(count))];
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

    #[test]
    fn values_without_bounds_are_errors_and_take_no_memory() {
        for name in ["lpad", "rpad", "repeat", "array_repeat", "list_repeat"] {
            for count in [(1 << 20) + 1, i64::from(i32::MAX), i64::MAX] {
                let error = call(name, "x", count, 1).unwrap_err().to_string();
                assert!(error.contains("would make a value of"), "{name} {count}: {error}");
            }
        }
        let error = call("repeat", "a long text", 1 << 18, 1).unwrap_err().to_string();
        assert!(error.contains("would make a value of 2883584 parts"), "{error}");
    }

    #[test]
    fn a_batch_of_great_values_is_an_error() {
        let error = call("lpad", "x", 1 << 16, 8192).unwrap_err().to_string();
        assert!(error.contains("would make 536870912 bytes of 8192 rows"), "{error}");
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
}
