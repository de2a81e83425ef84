//! Rotary position embedding, `rotate_half` layout, with the `llama3` scaling.
//!
//! The reference computes frequencies in f32, and an f32 frequency times a position of some thousands is an angle that
//! differs visibly from the exact one. So every step below rounds to f32 exactly where the reference does.

use std::f32::consts::PI;

use crate::config::{Llama3, Rope};

/// Angle per position of each of the `head_dim / 2` rotated pairs.
pub fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|pair| {
            let exponent = (2 * pair) as f32 / head_dim as f32;
            let frequency = 1.0 / (rope.theta.powf(f64::from(exponent)) as f32);
            rope.scaling.as_ref().map_or(frequency, |scaling| stretch(frequency, scaling))
        })
        .collect()
}

/// Short wavelengths stay, long ones grow by `factor`, those between are blended.
fn stretch(frequency: f32, scaling: &Llama3) -> f32 {
    let (low, high) = (scaling.low_freq_factor as f32, scaling.high_freq_factor as f32);
    let (context, factor) = (scaling.original_context as f32, scaling.factor as f32);
    let wavelength = 2.0 * PI / frequency;
    if wavelength > context / low {
        frequency / factor
    } else if wavelength < context / high {
        frequency
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// Rotates one head (`head_dim` elements) at one position: element `i` pairs with element `i + head_dim / 2`.
pub fn rotate(head: &mut [f32], position: usize, frequencies: &[f32]) {
    let (first, second) = head.split_at_mut(frequencies.len());
    for ((a, b), frequency) in first.iter_mut().zip(second).zip(frequencies) {
        let angle = f64::from(position as f32 * frequency);
        let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
