//! Columns and texts in shared memory.

use pg_predict_engine::Result;
use pg_predict_engine::tensor::{Column, ElementType, Strings};

use crate::codec::reader::{Reader, broken};
use crate::codec::writer::Writer;

pub(crate) fn write_strings(strings: &Strings, out: &mut Writer<'_>) {
    let (text, ends) = strings.parts();
    out.text(text);
    out.array(ends);
}

pub(crate) fn read_strings(from: &mut Reader<'_>) -> Result<Strings> {
    let text = from.text()?;
    Strings::of_parts(text, from.numbers()?).ok_or_else(|| broken("texts do not end where they should"))
}

pub(crate) fn write_column(column: &Column, out: &mut Writer<'_>) {
    out.number(column.element() as usize);
    match column {
        Column::Float32(v) => out.array(v),
        Column::Float64(v) => out.array(v),
        Column::Int8(v) => out.array(v),
        Column::Int16(v) => out.array(v),
        Column::Int32(v) => out.array(v),
        Column::Int64(v) => out.array(v),
        Column::Uint8(v) => out.array(v),
        Column::Uint16(v) => out.array(v),
        Column::Uint32(v) => out.array(v),
        Column::Uint64(v) => out.array(v),
        Column::Bool(v) => out.array::<u8>(bytemuck::cast_slice(v)),
        Column::Float16(v) => out.array(v),
        Column::Bfloat16(v) => out.array(v),
        Column::String(v) => write_strings(v, out),
    }
}

pub(crate) fn read_column(from: &mut Reader<'_>) -> Result<Column> {
    let tag = u8::try_from(from.number()?).ok().and_then(ElementType::from_tag);
    Ok(match tag.ok_or_else(|| broken("an element type is unknown"))? {
        ElementType::Float32 => Column::Float32(from.array()?),
        ElementType::Float64 => Column::Float64(from.array()?),
        ElementType::Int8 => Column::Int8(from.array()?),
        ElementType::Int16 => Column::Int16(from.array()?),
        ElementType::Int32 => Column::Int32(from.array()?),
        ElementType::Int64 => Column::Int64(from.array()?),
        ElementType::Uint8 => Column::Uint8(from.array()?),
        ElementType::Uint16 => Column::Uint16(from.array()?),
        ElementType::Uint32 => Column::Uint32(from.array()?),
        ElementType::Uint64 => Column::Uint64(from.array()?),
        ElementType::Bool => {
            let bytes = from.array::<u8>()?;
            if bytes.iter().any(|b| *b > 1) {
                return Err(broken("a boolean is neither true nor false"));
            }
            Column::Bool(bytes.into_iter().map(|b| b == 1).collect())
        }
        ElementType::Float16 => Column::Float16(from.array()?),
        ElementType::Bfloat16 => Column::Bfloat16(from.array()?),
        ElementType::String => Column::String(read_strings(from)?),
    })
}
