//! Element types of tensors, columns of elements, and single values.

mod column;
mod element;
mod scalar;
mod strings;

pub use column::{Column, from_json};
pub use element::ElementType;
pub use scalar::{MOST_DIMENSIONS, Scalar, element_count, has_digits, narrow, narrow_bf16, narrow_f16, nest};
pub use strings::Strings;

#[cfg(test)]
mod tests {
    use super::{Column, ElementType, Strings};

    #[test]
    fn strings_keep_order_and_truncate() {
        let mut s = Strings::default();
        for x in ["a", "", "ünï", "b"] {
            s.push(x);
        }
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "ünï", "b"]);
        s.truncate(2);
        s.push("z");
        assert_eq!(s.iter().collect::<Vec<_>>(), ["a", "", "z"]);
        assert_eq!(s.get(9), "");
    }

    #[test]
    fn tags_name_every_type_once() {
        for t in ElementType::ALL {
            assert_eq!(ElementType::from_tag(t as u8), Some(t));
            assert_eq!(Column::new(t).element(), t);
            assert_eq!(serde_json::to_value(t).unwrap(), t.name());
        }
        assert_eq!(ElementType::from_tag(0), None);
    }
}
