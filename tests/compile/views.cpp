// What a view takes and what it refuses, with words that help. ConstView and View are the door of every call.
// refused 1: pass a row-major matrix in memory, (tokens, channels); a column-major matrix or an expression is not copied in silence
// refused 2: pass a row-major matrix in memory, (tokens, channels); a column-major matrix or an expression is not copied in silence
// refused 3: the matrix has another scalar type than the layer (no silent conversion
// refused 4: the output has another scalar type than the layer
// refused 5: the output must be a row-major matrix in memory
// refused 6: pass a row-major matrix in memory, (tokens, channels); a column-major matrix or an expression is not copied in silence
#include <implicit_attention/core/types.hpp>

namespace ia = implicit_attention;

float read(ia::ConstView<float> input) { return input.sum(); }
void write(ia::View<float> output) { output.setZero(); }

float calls() {
  ia::Matrix<float> rows(4, 3);
  rows.setOnes();
  Eigen::MatrixXf columns(4, 3);
  columns.setOnes();
  const ia::Matrix<double> wide = rows.cast<double>();
  ia::Matrix<double> wide_output = wide;

  float sum = read(rows);
  sum += read(rows.middleRows(1, 2));                                   // rows of one matrix
  sum += read(rows.leftCols(2));                                        // some channels: rows at a distance
  sum += read(ia::RowVector<float>(rows.row(0)));                       // one token
  sum += read(Eigen::VectorXf(columns.col(0)));                         // contiguous numbers, taken as one row
  sum += read(Eigen::Map<const ia::Matrix<float>>(rows.data(), 4, 3));  // an engine's buffer
  sum += read(ia::Matrix<float>(columns));                              // copied, and said so
  sum += read(ia::Matrix<float>(rows * 2.0F));                          // computed, and said so
  sum += read(ia::Matrix<float>(wide.cast<float>()));                   // narrowed, and said so
  write(rows);
  write(rows.middleRows(0, 1));
  write(rows.rightCols(1));
#if REFUSED == 1
  sum += read(columns);
#elif REFUSED == 2
  sum += read(rows * 2.0F);
#elif REFUSED == 3
  sum += read(wide);
#elif REFUSED == 4
  write(wide_output);
#elif REFUSED == 5
  write(columns);
#elif REFUSED == 6
  sum += read(rows.transpose());
#endif
  wide_output.setZero();
  return sum;
}
