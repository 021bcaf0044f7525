// Sentences as pictures: token boxes coloured by their scores, one strip per model or method, the prediction on the right.
#pragma once

#include <string>
#include <vector>

#include "colour.hpp"

namespace implicit_attention::examples {

/// One sentence under one model or method.
struct TokenStrip {
  std::string label;                ///< on the left: "Mamba", "rollout"; may be empty
  std::vector<std::string> tokens;  ///< as they are to be read (UTF-8)
  std::vector<double> scores;       ///< one per token
  std::string prediction;           ///< on the right: "positive"; may be empty
  double probability = -1;          ///< of the prediction, drawn as a bar and a percentage; negative: not shown
};

/// Strips under each other.
struct TokenStrips {
  std::string title;
  std::string caption;
  std::vector<TokenStrip> strips;        ///< at least one
  std::string value_name = "relevance";  ///< what the legend measures
  Palette palette = Palette::automatic;  ///< sequential (white to orange) for scores that are all positive, else blue-white-red
  bool shared_scale = false;             ///< one scale for all strips; otherwise each strip's largest magnitude is full colour
};

/// Where things were drawn. Pixels, origin at the top left.
struct DrawnToken {
  int left = 0, top = 0, width = 0, height = 0;
  Colour colour;
};
struct DrawnTokenStrips {
  int width = 0, height = 0;
  std::vector<std::vector<DrawnToken>> tokens;  ///< per strip, per token
  std::vector<char32_t> missing_glyphs;         ///< characters that no font had
};

/// Draws the strips, wrapping sentences over lines, and writes an RGB PNG through a temporary file that is renamed when whole.
/// Fails (shape) where there is nothing to draw or scores do not match tokens; (file) as `write_heat_map` does.
DrawnTokenStrips write_token_strips(const std::string& path, const TokenStrips& strips);

}  // namespace implicit_attention::examples
