// The worth of each unit: the mean over its positions of what the measure multiplies, divided by what it divides by.
//
// feature and outgoing are (units * block), incoming is (units); which of them enter is said by reads: 1 feature, 2 outgoing,
// 4 incoming.

extern "C" void kernel(const scalar* feature, const scalar* outgoing, const scalar* incoming, scalar* worths, int64_t units, int64_t block, int64_t reads)
{
    const scalar least = std::numeric_limits<scalar>::epsilon();
    for (int64_t unit = 0; unit < units; unit++) {
        scalar worth = reads & 3 ? 0 : 1;
        if (reads & 3) {
            for (int64_t p = unit * block; p < (unit + 1) * block; p++)
                worth += (reads & 1 ? feature[p] : scalar(1)) * (reads & 2 ? outgoing[p] : scalar(1));
            worth /= block;
        }
        if (reads & 4) worth /= incoming[unit] < least ? least : incoming[unit];
        worths[unit] = worth;
    }
}
