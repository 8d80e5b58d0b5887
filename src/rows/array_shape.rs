//! Compares the dimensions of an SQL array with the shape that an input has per row.

use pg_predict_engine::batch::Shapes;
use pg_predict_engine::signature::Input;

/// Checks the dimensions of an array against the shape of an input. Records them if rows differ in shape.
pub(crate) fn note(dims: &[usize], input: &Input, shapes: &mut Shapes) -> bool {
    match shapes {
        // An empty array has no dimensions, and neither has a single value.
        Shapes::Same(shape) if dims.is_empty() => shape.contains(&0),
        // The most common case: one dimension with all elements of a known shape.
        Shapes::Same(shape) if dims.len() == 1 => dims[0] == shape.iter().product::<usize>(),
        Shapes::Same(shape) if dims == shape.as_slice() => true,
        Shapes::Same(_) => fit(dims, input).is_some(),
        Shapes::Each(each) => match fit(dims, input) {
            Some(shape) => {
                each.push(&shape);
                true
            }
            None => false,
        },
    }
}

/// Returns the shape of an array as a row of an input, or `None` if it does not fit.
///
/// The shape is that of the array, apart from dimensions of one. An array of one dimension that holds all elements
/// takes the shape of the input.
fn fit(dims: &[usize], input: &Input) -> Option<Vec<usize>> {
    let same = |(a, b): (&usize, &Option<usize>)| b.is_none_or(|b| *a == b);
    if !dims.is_empty() && dims.len() == input.shape.len() && dims.iter().zip(&input.shape).all(same) {
        return Some(dims.to_vec());
    }
    // Dimensions of one do not change the order of the elements.
    let ours: Option<Vec<usize>> = input.shape.iter().copied().filter(|d| *d != Some(1)).collect();
    if ours.is_some_and(|ours| dims.iter().copied().filter(|d| *d != 1).eq(ours)) && !dims.is_empty() {
        return input.shape.iter().copied().collect();
    }
    // An empty array has no dimensions in PostgreSQL.
    let count = match dims {
        [] => 0,
        [n] => *n,
        _ => return None,
    };
    let known: usize = input.shape.iter().flatten().product();
    match input.shape.iter().filter(|d| d.is_none()).count() {
        0 => (known == count).then(|| input.shape.iter().flatten().copied().collect()),
        // One open dimension follows from the number of elements.
        1 if known > 0 && count % known == 0 => Some(input.shape.iter().map(|d| d.unwrap_or(count / known)).collect()),
        _ if count == 0 => {
            Some(input.shape.iter().map(|d| d.unwrap_or(0)).collect()).filter(|s: &Vec<usize>| s.contains(&0))
        }
        _ => None,
    }
}

/// Formats a shape for a message.
pub(crate) fn describe(dims: impl Iterator<Item = Option<usize>>) -> String {
    let dims: Vec<String> = dims.map(|d| d.map_or_else(|| "any".to_owned(), |d| d.to_string())).collect();
    if dims.is_empty() { "a single value".to_owned() } else { format!("shape [{}]", dims.join(", ")) }
}
