// All metrics: how faithful scores of tokens are to the model, and how they agree with each other or with people. Each is a free function
// that takes scores and, where it runs a model, a callable.
//
// | function                               | metric                                                                     | better |
// |----------------------------------------|----------------------------------------------------------------------------|--------|
// | positive_perturbation                  | area while the most relevant tokens are removed first                      | lower  |
// | negative_perturbation                  | area while the least relevant tokens are removed first                     | higher |
// | activation                             | area while tokens are put into an empty text, the most relevant first      | higher |
// | pruning                                | squared error while the least relevant tokens are removed                  | lower  |
// | flipping_difference                    | difference of the two removal areas (Delta A^F)                            | higher |
// | insertion_difference                   | difference of the two insertion areas (Delta A^I)                          | higher |
// | comprehensiveness_and_sufficiency      | ERASER's pair: without the top share, the top share alone                  | high, low |
// | leave_one_out_correlation              | rank correlation with the effect of leaving out each token                 | higher |
// | infidelity, relative_infidelity        | error of the effects that the scores predict                               | lower  |
// | sensitivity_max                        | change of the scores under small noise                                     | lower  |
// | randomized_model_check                 | similarity to the scores of a model with shuffled weights                  | lower  |
// | average_precision, top_k_overlap, ...  | agreement with tokens that people marked                                   | higher |
// | area_under_roc, top_one, ...           | whether a token that is known to be the cause stands above the others      | higher |
// | shapley_values, greedy_...             | ceilings: what scores made by running the model on many sets reach         |        |
// | top_k_agreement, spearman              | agreement of two sets of scores                                            | higher |
#pragma once

#include <implicit_attention/metrics/agreement.hpp>
#include <implicit_attention/metrics/bootstrap.hpp>
#include <implicit_attention/metrics/ceilings.hpp>
#include <implicit_attention/metrics/curve.hpp>
#include <implicit_attention/metrics/infidelity.hpp>
#include <implicit_attention/metrics/known_cause.hpp>
#include <implicit_attention/metrics/perturbation.hpp>
#include <implicit_attention/metrics/randomization.hpp>
#include <implicit_attention/metrics/cached_model.hpp>
#include <implicit_attention/metrics/scores.hpp>
