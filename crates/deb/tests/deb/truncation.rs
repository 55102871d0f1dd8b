//! Packages that were cut off.

use crate::builder::*;

#[test]
fn package_cut_at_any_512_bytes_is_refused() {
    let noise: Vec<u8> = (0..300_000u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b9) >> 11) as u8)
        .collect();
    let data = tar(&[dir("./"), file("./noise", noise), file("./z", "")]);
    for ending in ["", ".gz", ".xz", ".zst"] {
        let (control_name, data_name) =
            (format!("control.tar{ending}"), format!("data.tar{ending}"));
        let full = ar(&[
            format_member(),
            (&control_name, pack(&control_tar(CONTROL, &[]), ending)),
            (&data_name, pack(&data, ending)),
        ]);
        assert!(read(&full).is_ok(), "{ending}");
        for keep in (0..full.len()).step_by(512) {
            let words = if keep == 0 { "empty" } else { "" };
            assert_refused(
                &format!("A19 A25 {ending} cut to {keep}"),
                &full[..keep],
                words,
            );
        }
    }
}

#[test]
fn small_package_cut_at_any_byte_is_refused() {
    for ending in ["", ".gz", ".xz", ".zst"] {
        let full = good(ending);
        assert!(read(&full).is_ok(), "{ending}");
        let tail = full.len().saturating_sub(3000);
        for keep in (0..full.len().min(3000)).chain(tail..full.len()) {
            assert_refused(&format!("A25 {ending} cut to {keep}"), &full[..keep], "");
        }
    }
}
