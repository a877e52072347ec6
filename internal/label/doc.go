// Package label turns annotations into a dataset and says whether the
// annotators agree well enough to trust it.
//
// Agreement is Krippendorff's α for nominal labels with missing votes. The gate
// is on its one-sided lower confidence bound by a bootstrap over items, not on
// the point: agreement on few items proves little. Where α is undefined (all
// votes alike, or no item with two votes) the verdict is inconclusive, since
// nothing was shown.
//
// A majority of votes adjudicates an item. Ties, and items without a vote, go to
// an adjudication list for people and stay out of the dataset. The dataset is
// JSON Lines named by its digest and never changed.
package label
