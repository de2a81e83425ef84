//! Puts together what a row has found in one range of positions after the other, in plain Rust.

use super::{activation::exp, strip::TILE};

/// Adds what a row found in the next range to what it found before. Added to nothing it stays as it is.
pub fn merge(attended: &mut [f32], found: &[f32]) {
    let (values, before) = attended.split_at_mut(found.len() - TILE);
    let (found, [their_largest, their_sum, ..]) = found.split_at(values.len()) else { return };
    // A row that saw nothing of this range has found nothing.
    if *their_sum == 0.0 {
        return;
    }
    if before[1] == 0.0 {
        values.copy_from_slice(found);
        [before[0], before[1]] = [*their_largest, *their_sum];
        return;
    }
    let largest = before[0].max(*their_largest);
    let (ours, theirs) = (exp(before[0] - largest), exp(their_largest - largest));
    values.iter_mut().zip(found).for_each(|(value, found)| *value = *value * ours + found * theirs);
    [before[0], before[1]] = [largest, before[1] * ours + their_sum * theirs];
}

/// out ← what a row has found of all positions, whose weights then add up to one.
pub fn share(attended: &[f32], out: &mut [f32]) {
    let share = 1.0 / attended[attended.len() - TILE + 1];
    out.iter_mut().zip(attended).for_each(|(out, value)| *out = value * share);
}
