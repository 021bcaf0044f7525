// A host's macros of names that are names here too (a check or D of its own, X11's Success): put aside from here to host_macros_on.hpp.
// What stands between the two includes nothing of ours, so that pairs never nest. No include guard.
#if defined(check) || defined(Success) || defined(A) || defined(B) || defined(C) || defined(D) || defined(E) || defined(F) ||     \
    defined(G) || defined(H) || defined(I) || defined(J) || defined(K) || defined(L) || defined(M) || defined(N) || defined(O) || \
    defined(P) || defined(Q) || defined(R) || defined(S) || defined(T) || defined(U) || defined(V) || defined(W) || defined(X) || \
    defined(Y) || defined(Z)
#define IMPLICIT_ATTENTION_HOST_MACROS_OFF
#pragma push_macro("check")
#undef check
#pragma push_macro("Success")
#undef Success
#pragma push_macro("A")
#undef A
#pragma push_macro("B")
#undef B
#pragma push_macro("C")
#undef C
#pragma push_macro("D")
#undef D
#pragma push_macro("E")
#undef E
#pragma push_macro("F")
#undef F
#pragma push_macro("G")
#undef G
#pragma push_macro("H")
#undef H
#pragma push_macro("I")
#undef I
#pragma push_macro("J")
#undef J
#pragma push_macro("K")
#undef K
#pragma push_macro("L")
#undef L
#pragma push_macro("M")
#undef M
#pragma push_macro("N")
#undef N
#pragma push_macro("O")
#undef O
#pragma push_macro("P")
#undef P
#pragma push_macro("Q")
#undef Q
#pragma push_macro("R")
#undef R
#pragma push_macro("S")
#undef S
#pragma push_macro("T")
#undef T
#pragma push_macro("U")
#undef U
#pragma push_macro("V")
#undef V
#pragma push_macro("W")
#undef W
#pragma push_macro("X")
#undef X
#pragma push_macro("Y")
#undef Y
#pragma push_macro("Z")
#undef Z
#endif
