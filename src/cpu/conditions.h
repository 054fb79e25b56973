/*
 * The sixteen condition codes, X(code, name as in Jcc): families make one handler of each.
 */
#ifndef STRATA_CPU_CONDITIONS_H
#define STRATA_CPU_CONDITIONS_H

#define CONDITIONS(X)                                                                                                  \
	X(0, o)                                                                                                        \
	X(1, no)                                                                                                       \
	X(2, b)                                                                                                        \
	X(3, nb)                                                                                                       \
	X(4, z)                                                                                                        \
	X(5, nz)                                                                                                       \
	X(6, be)                                                                                                       \
	X(7, nbe)                                                                                                      \
	X(8, s)                                                                                                        \
	X(9, ns)                                                                                                       \
	X(10, p)                                                                                                       \
	X(11, np)                                                                                                      \
	X(12, l)                                                                                                       \
	X(13, nl)                                                                                                      \
	X(14, le)                                                                                                      \
	X(15, nle)

#endif
