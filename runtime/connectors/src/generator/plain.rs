//! Columns from ranges of values.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewBuilder, TimestampMicrosecondArray};
use millrace_crds::{DoubleRange, FieldValues, GeneratorField, IntRange, Sequence};

use super::{Random, Values};

/// The column of this name.
pub(super) fn column(fields: &[GeneratorField], seed: u64, name: &str) -> Option<Box<dyn Values>> {
    let (number, field) = fields.iter().enumerate().find(|(_, field)| field.name == name)?;
    let kind = match field.values()? {
        FieldValues::Int(range) => Kind::Int(*range),
        FieldValues::Double(range) => Kind::Double(*range),
        FieldValues::String(strings) if strings.choices.is_empty() => Kind::Numbered {
            prefix: strings.prefix.clone().unwrap_or_default(),
            cardinality: strings.cardinality.unwrap_or(1).max(1),
        },
        FieldValues::String(strings) => Kind::Choice(strings.choices.clone()),
        FieldValues::Timestamp(steps) => Kind::Timestamp {
            start: steps.start_micros()?,
            step: i64::try_from(steps.step.get().as_micros()).unwrap_or(i64::MAX),
        },
        FieldValues::Sequence(sequence) => Kind::Sequence(*sequence),
    };
    Some(Box::new(Plain { seed, purpose: number as u64, kind }))
}

struct Plain {
    seed: u64,
    purpose: u64,
    kind: Kind,
}

enum Kind {
    Int(IntRange),
    Double(DoubleRange),
    Choice(Vec<String>),
    Numbered { prefix: String, cardinality: u64 },
    Timestamp { start: i64, step: i64 },
    Sequence(Sequence),
}

impl Plain {
    fn random(&self, row: u64) -> Random {
        Random::new(self.seed, self.purpose, row)
    }
}

impl Values for Plain {
    fn values(&self, rows: &[u64]) -> ArrayRef {
        match &self.kind {
            Kind::Int(range) => {
                let span = range.max.wrapping_sub(range.min) as u64;
                let value = |row: &u64| {
                    let mut random = self.random(*row);
                    let above = if span == u64::MAX { random.next() } else { random.below(span + 1) };
                    range.min.wrapping_add(above as i64)
                };
                Arc::new(Int64Array::from_iter_values(rows.iter().map(value)))
            }
            Kind::Double(range) => {
                let value = |row: &u64| range.min + self.random(*row).unit() * (range.max - range.min);
                Arc::new(Float64Array::from_iter_values(rows.iter().map(value)))
            }
            Kind::Choice(choices) => {
                let mut values = StringViewBuilder::with_capacity(rows.len());
                for row in rows {
                    values.append_value(&choices[self.random(*row).below(choices.len() as u64) as usize]);
                }
                Arc::new(values.finish())
            }
            Kind::Numbered { prefix, cardinality } => {
                let mut values = StringViewBuilder::with_capacity(rows.len());
                let mut text = prefix.clone();
                for row in rows {
                    text.truncate(prefix.len());
                    text.push_str(itoa::Buffer::new().format(self.random(*row).below(*cardinality)));
                    values.append_value(&text);
                }
                Arc::new(values.finish())
            }
            Kind::Timestamp { start, step } => {
                let value = |row: &u64| start.saturating_add((*row as i64).saturating_mul(*step));
                Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(value)).with_timezone("UTC"))
            }
            Kind::Sequence(sequence) => {
                let value = |row: &u64| sequence.start.wrapping_add((*row as i64).wrapping_mul(sequence.step));
                Arc::new(Int64Array::from_iter_values(rows.iter().map(value)))
            }
        }
    }
}
