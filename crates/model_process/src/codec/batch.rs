//! Batches in shared memory.

use pg_predict_engine::Result;
use pg_predict_engine::batch::{Batch, Each, Shapes};

use crate::codec::columns::{read_column, write_column};
use crate::codec::reader::{Reader, broken};
use crate::codec::writer::Writer;

/// Writes a batch.
pub fn write_batch(batch: &Batch, out: &mut Writer<'_>) {
    out.number(batch.rows);
    out.number(batch.columns.len());
    for (column, shapes) in batch.columns.iter().zip(&batch.shapes) {
        match shapes {
            Shapes::Same(shape) => {
                out.number(0);
                out.array(shape);
            }
            Shapes::Each(each) => {
                out.number(1);
                out.number(each.rank);
                out.array(&each.dims);
                out.array(&each.ends);
            }
        }
        write_column(column, out);
    }
}

/// Reads a batch. Runs check that its columns and shapes agree.
pub fn read_batch(from: &mut Reader<'_>) -> Result<Batch> {
    let mut batch = Batch { rows: from.number()?, ..Batch::default() };
    for _ in 0..from.number()? {
        batch.shapes.push(match from.number()? {
            0 => Shapes::Same(from.numbers()?),
            1 => Shapes::Each(Each { rank: from.number()?, dims: from.numbers()?, ends: from.numbers()? }),
            _ => return Err(broken("a kind of shape is unknown")),
        });
        batch.columns.push(read_column(from)?);
    }
    Ok(batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::SharedMemory;
    use pg_predict_engine::tensor::{Column, ElementType, Strings};

    fn texts(all: &[&str]) -> Strings {
        let mut strings = Strings::default();
        all.iter().for_each(|t| strings.push(t));
        strings
    }

    fn batch() -> Batch {
        let mut each = Each { rank: 2, ..Each::default() };
        [[1, 2], [0, 2], [2, 2]].iter().for_each(|shape| each.push(shape));
        let columns = vec![
            Column::Float32(vec![1.0, f32::NAN, -0.0]),
            Column::Int64(vec![i64::MIN, 0, 1, 2, 3, i64::MAX]),
            Column::Bool(vec![true, false, true]),
            Column::String(texts(&["", "ünï", "z"])),
            Column::Bfloat16(vec![half::bf16::ONE; 3]),
        ];
        let one = || Shapes::Same(vec![]);
        Batch { rows: 3, columns, shapes: vec![one(), Shapes::Each(each), one(), one(), one()] }
    }

    #[test]
    fn a_batch_arrives_as_it_was_sent() {
        let sent = batch();
        let region = SharedMemory::create(4096).unwrap();
        let mut out = Writer::new(&region);
        write_batch(&sent, &mut out);
        assert!(out.fits());
        let mut from = Reader::new(&region, out.len()).unwrap();
        let got = read_batch(&mut from).unwrap();
        from.finish().unwrap();
        assert_eq!((got.rows, &got.shapes), (sent.rows, &sent.shapes));
        assert_eq!(format!("{:?}", got.columns), format!("{:?}", sent.columns));
    }

    #[test]
    fn every_element_type_is_carried() {
        for element in ElementType::ALL {
            let region = SharedMemory::create(4096).unwrap();
            let mut out = Writer::new(&region);
            write_column(&Column::new(element), &mut out);
            assert_eq!(read_column(&mut Reader::new(&region, out.len()).unwrap()).unwrap().element(), element);
        }
    }

    #[test]
    fn a_message_that_is_cut_or_changed_is_an_error_and_never_worse() {
        let region = SharedMemory::create(4096).unwrap();
        let mut out = Writer::new(&region);
        write_batch(&batch(), &mut out);
        let (len, bytes) = (out.len(), region.copy_out::<u8>(0, out.len()).unwrap());
        for n in 0..len {
            let mut from = Reader::new(&region, n).unwrap();
            assert!(read_batch(&mut from).and_then(|_| from.finish()).is_err(), "cut at {n}");
        }
        for n in 0..len {
            for byte in [0, 0xff, bytes[n] ^ 1] {
                region.copy_in(n, &[byte]);
                let _ = read_batch(&mut Reader::new(&region, len).unwrap());
                region.copy_in(n, &bytes[n..=n]);
            }
        }
        assert!(Reader::new(&region, 4097).is_err());
    }

    #[test]
    fn a_region_that_is_too_small_says_how_much_is_needed() {
        let (small, large) = (SharedMemory::create(16).unwrap(), SharedMemory::create(4096).unwrap());
        let (mut a, mut b) = (Writer::new(&small), Writer::new(&large));
        write_batch(&batch(), &mut a);
        write_batch(&batch(), &mut b);
        assert!(!a.fits() && b.fits() && a.len() == b.len());
    }
}
