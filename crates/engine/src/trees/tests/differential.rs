//! Random ensembles and rows give the bits of ONNX Runtime on every kernel.

use std::collections::BTreeMap;

use crate::trees::kernels::Kernel;
use crate::trees::tests::generated::{Dice, generated};
use crate::trees::tests::{compiled, difference, plain, run};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Compares `count` ensembles. Returns how many were compiled.
fn compare(seed: u64, count: usize, rows: usize) -> usize {
    let mut of_kind: BTreeMap<String, usize> = BTreeMap::new();
    let mut done = 0;
    let mut failures = Vec::new();
    'ensembles: for i in 0..count as u64 {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(i);
        let ensemble = generated(seed);
        let bytes = ensemble.model.encode();
        let theirs = match plain(&bytes) {
            Ok(session) => session,
            Err(error) => {
                *of_kind.entry(format!("rejected by ONNX Runtime: {error}")).or_default() += 1;
                continue;
            }
        };
        let sessions: Vec<_> = Kernel::all()
            .into_iter()
            .filter_map(|kernel| match compiled(&bytes, kernel) {
                Ok(session) => session.map(|session| (kernel, session)),
                Err(error) => {
                    *of_kind.entry(format!("{kernel:?} left: {error}")).or_default() += 1;
                    None
                }
            })
            .collect();
        if sessions.is_empty() {
            *of_kind.entry("left".to_owned()).or_default() += 1;
            continue;
        }
        *of_kind.entry(format!("compiled {}", ensemble.model.operator)).or_default() += 1;
        done += 1;
        let mut dice = Dice(seed ^ 0x5eed);
        let mut sizes = vec![1, 2, 16, 33, 65, 300];
        sizes.resize(sizes.len() + rows / 4096, 4096);
        sizes.push(rows % 4096 + 1);
        for size in sizes {
            let column = ensemble.rows(&mut dice, size);
            let expected = run(&theirs, "x", &column, size);
            for (kernel, session) in &sessions {
                let got = run(session, "x", &column, size);
                match (&expected, &got) {
                    (Ok(expected), Ok(got)) => {
                        for (a, b) in expected.iter().zip(got) {
                            if let Some(difference) = difference(a, b) {
                                failures.push(format!(
                                    "seed {seed} {kernel:?} size {size}: {difference}\n{}",
                                    ensemble.model.summary()
                                ));
                                continue 'ensembles;
                            }
                        }
                    }
                    (Err(_), Err(_)) => {}
                    (a, b) => panic!("seed {seed} {kernel:?}: {:?} and {:?}", a.as_ref().err(), b.as_ref().err()),
                }
            }
        }
    }
    for (kind, count) in &of_kind {
        println!("{count:6} {kind}");
    }
    assert!(
        failures.is_empty(),
        "{} ensembles differ:\n{}",
        failures.len(),
        failures[..failures.len().min(8)].join("\n")
    );
    done
}

#[test]
fn a_kernel_can_be_named_and_the_fastest_is_the_default() {
    let all = Kernel::all();
    assert_eq!(Kernel::named(None), all[0]);
    assert_eq!(Kernel::named(Some("unknown")), all[0]);
    assert_eq!(Kernel::named(Some("portable")), Kernel::Portable);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(Kernel::named(Some("avx2")) == Kernel::Avx2, all.contains(&Kernel::Avx2));
}

#[test]
fn random_ensembles_give_the_bits_of_onnx_runtime_on_every_kernel() {
    assert!(compare(1, 150, 200) > 75);
}

#[test]
#[ignore = "long: `make trees`"]
fn many_random_ensembles_give_the_bits_of_onnx_runtime_on_every_kernel() {
    let (count, rows) = (number("ENSEMBLES", 300), number("ROWS", 1_000_000));
    assert!(compare(number("SEED", 1) as u64, count, rows) > count / 2);
}
