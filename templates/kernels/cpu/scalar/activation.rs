//! SiLU and the exponential under it, in plain Rust.

use rt::image::PANEL;

/// gated ← silu(gate) · up, where silu(x) = x / (1 + exp(-x)): of a row of a panel, sixteen columns of gates and then of ups.
pub fn silu_mul(cells: &[f32; PANEL], gated: &mut [f32; PANEL / 2]) {
    let (gates, ups) = cells.split_at(PANEL / 2);
    for (gated, (gate, up)) in gated.iter_mut().zip(gates.iter().zip(ups)) {
        *gated = gate / (1.0 + exp(-gate)) * up;
    }
}

/// exp(x). Below -87 and above 88 it stays at the value there; NaN stays NaN.
///
/// x = n · ln 2 + r with |r| ≤ ln 2 / 2, then 2ⁿ · eʳ: eʳ = 1 + r + r² · p(r), p of degree 4 through the Chebyshev
/// nodes of that interval, which leaves 1e-8.
pub fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which then stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts: n times the first is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = (((0.001_392_617_6 * r + 0.008_363_173) * r + 0.041_666_556) * r + 0.166_665_78) * r + 0.5;
    let e_r = 1.0 + (r + r * r * p);
    // Adding n to the exponent bits multiplies by 2ⁿ.
    f32::from_bits(e_r.to_bits().wrapping_add(rounded.to_bits() << 23))
}
