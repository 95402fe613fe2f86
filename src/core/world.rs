//! The virtual world: a rectangle from (0, 0) to (width, height), and the positions inside it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A point of the world.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Position {
    /// From 0 to the world's width.
    pub x: f64,
    /// From 0 to the world's height.
    pub y: f64,
}

/// The world's sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct World {
    /// Its extent in x.
    pub width: f64,
    /// Its extent in y.
    pub height: f64,
}

/// A point outside the world, or no point at all.
#[derive(Debug, Clone, Copy, PartialEq, Error)]
#[error(
    "the position ({x}, {y}) is not in the world, which reaches from (0, 0) to ({width}, {height})"
)]
pub struct PositionError {
    /// The refused x.
    pub x: f64,
    /// The refused y.
    pub y: f64,
    /// The world's extent in x.
    pub width: f64,
    /// The world's extent in y.
    pub height: f64,
}

impl World {
    /// Takes a point as a position. The border belongs to the world; NaN does not.
    ///
    /// # Errors
    /// Names the point and the world's sides.
    pub fn position(self, x: f64, y: f64) -> Result<Position, PositionError> {
        let World { width, height } = self;
        if (0.0..=width).contains(&x) && (0.0..=height).contains(&y) {
            Ok(Position { x, y })
        } else {
            Err(PositionError { x, y, width, height })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_points_of_the_rectangle_are_positions() {
        let world = World { width: 10.0, height: 5.0 };
        assert!(world.position(0.0, 0.0).is_ok());
        assert!(world.position(10.0, 5.0).is_ok());
        for (x, y) in [(-0.1, 1.0), (10.1, 1.0), (1.0, 5.1), (f64::NAN, 1.0), (1.0, f64::INFINITY)]
        {
            assert!(world.position(x, y).is_err(), "({x}, {y})");
        }
    }
}
