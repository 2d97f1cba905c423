//! Functions that make as much as a number asks them to, kept from making more than a task has room for: what leaves the
//! bounds is an error of the expression.
//!
//! | bound | |
//! |---|---|
//! | one value | 1,048,576 characters (`repeat`: bytes) or entries |
//! | the values of one batch together | 268,435,456 bytes |
//! | the constants of one SELECT together | 33,554,432 bytes |
//!
//! The sizes are reckoned from the arguments, before anything is made. What constant arguments already say is told when
//! the plan is made.

mod range;

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use datafusion_common::{Result, exec_datafusion_err};
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    simplify::{ExprSimplifyResult, SimplifyContext},
};

use crate::{
    constants::{constant, each_part_up},
    error::{Fault, MAX_FAULTS},
};

/// How many characters or entries one value may have.
const MAX_OF_VALUE: u64 = 1 << 20;
/// How many bytes the values of a batch may have.
const MAX_OF_BATCH: u64 = 1 << 28;
/// How many bytes the constants may have that functions make in one SELECT, together.
const MAX_OF_CONSTANTS: u64 = 1 << 25;
/// What an entry of a list is reckoned with, beside what a text or a list has in it.
const ENTRY_BYTES: u64 = 16;

/// A function that is held to the bounds, if it is one that could leave them.
pub(crate) fn bounded(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    match Made::by(function.name()) {
        Some(made) => Arc::new(ScalarUDF::from(Bounded { inner: function, made })),
        None => function,
    }
}

/// Every call in a plan whose types are known that would leave the bounds for all rows, since its arguments are constants.
pub(crate) fn excesses(plan: &LogicalPlan) -> Vec<Fault> {
    let mut told = BTreeSet::new();
    let mut made = 0;
    // From the inside out, so that no constant is made of others before it is known how large those are.
    each_part_up(plan, |part| {
        let Expr::ScalarFunction(call) = part else { return };
        if made > MAX_OF_CONSTANTS || told.len() >= MAX_FAULTS {
            return;
        }
        let args = || call.args.iter().map(constant);
        if let Some(function) = call.func.inner().downcast_ref::<Bounded>() {
            let args: Vec<Option<ArrayRef>> = args().collect();
            match function.excess(&args, 1) {
                Ok(bytes) if args.iter().all(Option::is_some) => made += bytes,
                Ok(_) => {}
                Err(excess) => drop(told.insert(excess)),
            }
        } else if MULTIPLYING.contains(&call.func.name())
            && let Some(args) = args().collect::<Option<Vec<ArrayRef>>>()
        {
            made = made.saturating_add(multiplied(call.func.name(), &args));
        }
    });
    if made > MAX_OF_CONSTANTS {
        told.insert(format!(
            "the constants that functions make here have more than {MAX_OF_CONSTANTS} bytes together, and may have as many"
        ));
    }
    told.into_iter().map(Fault::new).collect()
}

/// Functions that are held to no bounds, and of which a few in each other make very much of very little.
const MULTIPLYING: [&str; 4] = ["replace", "regexp_replace", "concat_ws", "array_to_string"];

/// How many bytes one of these makes of constants at most.
fn multiplied(name: &str, args: &[ArrayRef]) -> u64 {
    let bytes = |number: usize| args.get(number).map_or(0, |arg| bytes_of(arg, 0));
    let (places, each) = match name {
        // Before each character, and at the end.
        "replace" | "regexp_replace" => (bytes(0) + 1, bytes(2)),
        "concat_ws" => (args.len() as u64, bytes(0)),
        _ => (bytes(0) / ENTRY_BYTES, bytes(1)),
    };
    let all = (0..args.len()).map(bytes).fold(0, u64::saturating_add);
    places.saturating_mul(each).saturating_add(all)
}

/// What a function makes of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Made {
    /// A text of as many characters as the second says.
    Padded,
    /// The first as often as the second says.
    Text,
    /// A list of as many entries as the second says, each like the argument of this number, if there is one.
    List { entry: usize },
    /// A list from the first to the second, by the third.
    Range { with_end: bool },
}

impl Made {
    fn by(name: &str) -> Option<Self> {
        Some(match name {
            "lpad" | "rpad" => Self::Padded,
            "repeat" => Self::Text,
            "array_repeat" => Self::List { entry: 0 },
            "array_resize" => Self::List { entry: 2 },
            "range" => Self::Range { with_end: false },
            "generate_series" => Self::Range { with_end: true },
            _ => return None,
        })
    }

    /// What a value has many of.
    fn parts(self) -> &'static str {
        match self {
            Self::Padded => "characters",
            Self::Text => "bytes",
            Self::List { .. } | Self::Range { .. } => "entries",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    made: Made,
}

impl Bounded {
    /// How many bytes are made of `rows` rows; refuses to make too much. An argument that is not known is taken for a small one.
    fn excess(&self, args: &[Option<ArrayRef>], rows: usize) -> std::result::Result<u64, String> {
        let name = self.inner.name();
        let arg = |number: usize| args.get(number).and_then(Option::as_ref);
        let counts = match self.made {
            Made::Range { with_end } => {
                let known: Option<Vec<ArrayRef>> = args.iter().cloned().collect();
                known.map(|args| range::counts(name, &args, with_end)).transpose()?
            }
            _ => arg(1).map(numbers),
        };
        // Without a count nothing is known.
        let Some(counts) = counts else { return Ok(0) };
        let text = match self.made {
            Made::Text => arg(0).and_then(|text| cast(text, &DataType::Utf8View).ok()),
            _ => None,
        };
        let text = text.as_ref().map(|text| text.as_string_view());
        let entry = match self.made {
            Made::List { entry } => arg(entry),
            _ => None,
        };
        let mut of_batch: u64 = 0;
        for (row, count) in counts.into_iter().enumerate() {
            let of_value = match text {
                Some(text) if text.is_null(row) => 0,
                Some(text) => count.saturating_mul(text.value(row).len() as u64),
                None => count,
            };
            if of_value > MAX_OF_VALUE {
                return Err(format!(
                    "`{name}` would make a value of {of_value} {}, and may make one of {MAX_OF_VALUE}",
                    self.made.parts()
                ));
            }
            let of_part = match self.made {
                Made::Padded | Made::Text => 1,
                Made::Range { .. } => ENTRY_BYTES,
                Made::List { .. } => {
                    ENTRY_BYTES.saturating_add(entry.filter(|_| count > 0).map_or(0, |entry| bytes_of(entry, row)))
                }
            };
            of_batch = of_batch.saturating_add(of_value.saturating_mul(of_part));
        }
        if of_batch > MAX_OF_BATCH {
            let of = if rows == 1 { "one row".to_owned() } else { format!("{rows} rows at once") };
            return Err(format!("`{name}` would make {of_batch} bytes of {of}, and may make {MAX_OF_BATCH}"));
        }
        Ok(of_batch)
    }
}

/// How often each row is to have something; NULL and less than nothing are nothing.
fn numbers(counts: &ArrayRef) -> Vec<u64> {
    let Ok(counts) = cast(counts, &DataType::Int64) else { return Vec::new() };
    counts.as_primitive::<Int64Type>().iter().map(|count| u64::try_from(count.unwrap_or(0)).unwrap_or(0)).collect()
}

/// About how many bytes a value takes beyond those of an entry: what a text has in it, and the entries of a list.
fn bytes_of(array: &dyn Array, row: usize) -> u64 {
    if array.is_null(row) {
        return 0;
    }
    let entries =
        |list: ArrayRef| (0..list.len()).fold(0_u64, |sum, row| sum.saturating_add(ENTRY_BYTES + bytes_of(&list, row)));
    match array.data_type() {
        DataType::Utf8View => array.as_string_view().value(row).len() as u64,
        DataType::Utf8 => array.as_string::<i32>().value(row).len() as u64,
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).len() as u64,
        DataType::Binary => array.as_binary::<i32>().value(row).len() as u64,
        DataType::LargeBinary => array.as_binary::<i64>().value(row).len() as u64,
        DataType::BinaryView => array.as_binary_view().value(row).len() as u64,
        DataType::List(_) => entries(array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => entries(array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => entries(array.as_fixed_size_list().value(row)),
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|column| ENTRY_BYTES + bytes_of(column, row)).sum()
        }
        _ => 0,
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

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let known: Result<Vec<_>> = args.args.iter().map(|arg| arg.to_array(args.number_rows).map(Some)).collect();
        self.excess(&known?, args.number_rows).map_err(|told| exec_datafusion_err!("{told}"))?;
        self.inner.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests;
