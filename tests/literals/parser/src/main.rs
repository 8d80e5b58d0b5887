//! Mutated texts and stored bytes of prediction batches, through the engine's own readers, without a server.
//!
//! `parser_fuzz SECONDS SEED`. Built with AddressSanitizer, and with checks for overflow. What must hold: no panic, no error of the
//! sanitizer, memory like the size of what is read, and what is read prints as a text that reads as the same.
#![allow(dead_code, missing_docs)]

#[path = "../../../../crates/engine/src/batch.rs"]
pub mod batch;
#[path = "../../../../crates/engine/src/encoding/mod.rs"]
pub mod encoding;
#[path = "../../../../crates/engine/src/error.rs"]
pub mod error;
#[path = "../../../../crates/engine/src/reference.rs"]
pub mod reference;
#[path = "../../../../crates/engine/src/signature.rs"]
pub mod signature;
#[path = "../../../../crates/engine/src/tensor/mod.rs"]
pub mod tensor;

use std::alloc::{GlobalAlloc, Layout as Size, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use error::{Error, Result};

use batch::Values;
use encoding::carried::{MIXED, Place, Slot};
use encoding::encoded_reader::EncodedRows;
use encoding::layout::{Carried, Faults, Layout};
use encoding::stored_form::Purpose;
use encoding::text_form::TextHeader;
use encoding::text_rows::{TextRows, CarriedTexts};
use encoding::text_writer::Writer;
use encoding::{carried, encoded_rows, stored_form, text_form};

/// Counts what is allocated.
struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, size: Size) -> *mut u8 {
        let now = NOW.fetch_add(size.size(), Ordering::Relaxed) + size.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, size: Size) {
        NOW.fetch_sub(size.size(), Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(p, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const SLOTS: [Slot; 3] =
    [Slot::Value(4), Slot::Variable { align: 4, short: true }, Slot::Fixed { size: 16, align: 8 }];

const SEEDS: [&str; 6] = [
    r#"{"format":1,"model":"m","version":1,"outputs":[{"name":"y","kind":"tensor","element":"float32","shape":[],"declared":[-1,1]}],"selected":0,"carried":[{"name":"a","type":"int4"},{"name":"b","type":"text"},{"name":"u","type":"uuid"}],"rows":[[["1","x",null],[1.5]],[["2",null,"y"],null],[[null,"é\"\\\n",null],["NaN"]]]}"#,
    r#"{"model":"m","version":3,"outputs":[{"name":"y","kind":"tensor","element":"int64","shape":[2,2],"declared":[-1,2,2]},{"name":"ok","kind":"tensor","element":"bool","shape":[],"declared":[]}],"selected":0,"element":{"position":3},"carried":[],"rows":[[[],[[[1,2],[3,9223372036854775807]],true]],[[],null]]}"#,
    r#"{"rows":[[[],[[[1,2],[3,4]]]],[[],[[]]]],"model":"m","version":1,"outputs":[{"name":"y","kind":"open","element":"float16","shape":[null,2],"declared":[-1,-1,2]}],"selected":0,"carried":[]}"#,
    r#"{"model":"m","version":1,"outputs":[{"name":"y","kind":"map","key":"string","declared":[]}],"selected":0,"element":{"text":"a"},"carried":[],"rows":[[[],[{"a":1,"b":"Infinity"}]],[[],[{}]]]}"#,
    r#"{"model":"m","version":1,"outputs":[{"name":"y","kind":"map","key":"int64","declared":[]},{"name":"n","kind":"nested","of":"seq","declared":[]}],"selected":0,"carried":[],"rows":[[[],[{"1":0.25,"-2":3},[[1,2],{"k":[null,"x"]}]]]]}"#,
    r#"{"model":"m","version":1,"outputs":[{"name":"y","kind":"tensor","element":"string","shape":[2],"declared":[]},{"name":"z","kind":"tensor","element":"uint64","shape":[0,3],"declared":[]}],"selected":0,"carried":[],"rows":[[[],[["a",""],[]]]]}"#,
];

const PARTS: [&[u8]; 14] = [
    b"[", b"]", b"{", b"}", b"\"", b",", b":", b"\\u0000", b"1e999", b"30000000", b"18446744073709551616", b"null", b"[[[[[[[[", b"\xff\xff\xff\xff",
];

fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        if data.is_empty() {
            break;
        }
        let at = random.below(data.len());
        match random.below(7) {
            0 => data[at] = random.next() as u8,
            1 => data[at] ^= 1 << random.below(8),
            2 => {
                let end = (at + 1 + random.below(16)).min(data.len());
                data.drain(at..end);
            }
            3 => {
                let end = (at + 1 + random.below(40)).min(data.len());
                let copy = data[at..end].repeat(1 + random.below(4));
                data.splice(at..at, copy);
            }
            4 => {
                let part = PARTS[random.below(PARTS.len())];
                data.splice(at..at, part.iter().copied());
            }
            5 => {
                let part = PARTS[random.below(PARTS.len())];
                let end = (at + part.len()).min(data.len());
                data.splice(at..end, part.iter().copied());
            }
            _ => data.truncate(at),
        }
    }
    data
}

/// What a text becomes, with carried values as the server would keep those of SLOTS.
fn read(text: &str) -> Result<Vec<u8>> {
    let (head, rows) = text_form::read(text, &mut || {})?;
    let layout = Layout {
        model: head.model,
        version: head.version,
        outputs: head.outputs,
        selected: head.selected,
        element: head.element,
        carried: head.carried.iter().map(|c| Carried { name: c.name.clone(), oid: 25, typmod: -1, text_of: None }).collect(),
        named: false,
        unbound: head.unbound,
    };
    layout.check().map_err(|reason| Error::Malformed { reason })?;
    let mut tick = || {};
    let mut reader = TextRows::new(rows, layout.carried.len(), &mut tick)?;
    let mut kept = encoded_rows::RowHeaders::default();
    let mut values: Vec<Values> = layout.outputs.iter().map(Values::none).collect();
    let mut texts = CarriedTexts::default();
    while let Some(ran) = reader.next(&layout.outputs, &mut values, &mut texts)? {
        kept.ran.push(ran);
        if layout.carried.is_empty() {
            continue;
        }
        let before = kept.carried.len();
        kept.carried.extend([MIXED]);
        kept.carried.resize(before + 1 + carried::bitmap(layout.carried.len()), 0);
        for i in 0..layout.carried.len() {
            let Some(text) = texts.get(i) else { continue };
            kept.carried[before + 1 + i / 8] |= 1 << (i % 8);
            match SLOTS[i % 3] {
                Slot::Value(n) => kept.carried.extend(std::iter::repeat_n(text.len() as u8, n)),
                Slot::Fixed { size, align } => {
                    let at = (kept.carried.len() - before).next_multiple_of(align);
                    kept.carried.resize(before + at + size, 7);
                }
                Slot::Variable { .. } => {
                    let text = &text.as_bytes()[..text.len().min(100)];
                    kept.carried.push((text.len() as u8 + 1) << 1 | 1);
                    kept.carried.extend_from_slice(text);
                }
            }
        }
        kept.end_row(kept.carried.len() - before);
    }
    let chunk = encoded_rows::encode(&kept, &values)?;
    let mut out = stored_form::head(Purpose::Stored, &layout, &Faults::default(), 1)?;
    out.extend(stored_form::length(chunk.len())?);
    out.extend(chunk);
    Ok(out)
}

/// Looks at everything that a stored value holds, and prints it.
fn look(bytes: &[u8]) -> Result<String> {
    let mut tick = || {};
    let mut json = Writer::new(64 << 20, &mut tick);
    let mut separator = "";
    let (layout, _) = stored_form::read(bytes, Purpose::Stored, |layout, bytes| {
        let chunk = EncodedRows::parse(bytes)?;
        let slots: Vec<Slot> = (0..layout.carried.len()).map(|i| SLOTS[i % 3]).collect();
        let mut nth = 0;
        for row in 0..chunk.rows() {
            json.raw(separator)?;
            separator = ",";
            let mut before = "[[";
            if let Some(carried) = chunk.carried(row)?.filter(|row| row.first() == Some(&MIXED)) {
                carried::places(&slots, carried, |i, place| {
                    if let (Place::At(at), Slot::Fixed { size, .. }) = (place, slots[i]) {
                        assert!(at + size <= carried.len());
                    }
                })?;
            }
            for _ in &slots {
                json.raw(before)?;
                json.raw("null")?;
                before = ",";
            }
            json.raw(if slots.is_empty() { "[[]," } else { "]," })?;
            if chunk.ran(row) {
                before = "[";
                for (place, output) in layout.outputs.iter().enumerate() {
                    json.raw(before)?;
                    before = ",";
                    json.output(output, &chunk, place, nth)?;
                    let _ = (chunk.scalar(place, nth, 0), chunk.pairs(place, nth), chunk.shape(place, nth));
                }
                json.raw("]]")?;
                nth += 1;
            } else {
                json.raw("null]")?;
            }
        }
        Ok(())
    })?;
    let head = TextHeader {
        format: 1,
        model: layout.model,
        version: layout.version,
        outputs: layout.outputs,
        selected: layout.selected,
        element: layout.element,
        carried: layout
            .carried
            .into_iter()
            .map(|c| text_form::CarriedText { name: c.name, r#type: "text".to_owned(), definition: None, typmod: -1 })
            .collect(),
        unbound: layout.unbound,
        rows: [],
    };
    let head = serde_json::to_string(&head).expect("a header is JSON");
    Ok(format!("{}{}]}}", head.strip_suffix("]}").expect("rows are last"), json.into_text()))
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("SECONDS SEED"));
    let (seconds, seed) = (arguments.next().expect("SECONDS"), arguments.next().expect("SEED"));
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let stored: Vec<Vec<u8>> = SEEDS.iter().map(|seed| read(seed).expect("a seed is valid")).collect();
    for bytes in &stored {
        let text = look(bytes).expect("a seed is valid");
        assert_eq!(look(&read(&text).expect("what is printed is read")).expect("and printed"), text);
    }
    let (mut count, mut good) = ([0_u64; 2], [0_u64; 2]);
    let mut largest = 0;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..64 {
            let which = random.below(2);
            let nth = random.below(SEEDS.len());
            let data = mutate(if which == 0 { SEEDS[nth].as_bytes() } else { &stored[nth] }, &mut random);
            let before = NOW.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            count[which] += 1;
            let bytes = if which == 0 {
                let Ok(text) = std::str::from_utf8(&data) else { continue };
                read(text).ok()
            } else {
                Some(data.clone())
            };
            if let Some(bytes) = bytes
                && let Ok(text) = look(&bytes)
            {
                good[which] += 1;
                let again = read(&text).and_then(|bytes| look(&bytes));
                assert_eq!(again.as_ref(), Ok(&text), "seed {seed}: what is printed reads as something else");
            }
            let took = PEAK.load(Ordering::Relaxed) - before;
            largest = largest.max(took);
            assert!(
                took <= (1 << 20) + 256 * data.len(),
                "seed {seed}: {} bytes took {took} bytes of memory: {}",
                data.len(),
                String::from_utf8_lossy(&data)
            );
        }
    }
    println!(
        "seed {seed}: {} texts ({} valid) and {} stored values ({} valid) in {seconds} s; the most memory was {largest} bytes",
        count[0], good[0], count[1], good[1]
    );
    assert!(good.iter().all(|n| *n > 0), "nothing was valid: the mutations prove nothing");
}
