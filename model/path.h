/*
 * A model's path, absolute and without links.
 */
#ifndef AGL_MODEL_PATH_H
#define AGL_MODEL_PATH_H

/* realpath(3) of a folder. A file keeps its own name, even if it is a link: the parts of a split
 * model are found by their names, and stores of downloads have links with names to files without.
 * malloc'd; NULL with errno. */
char *path_resolve(const char *path);

#endif
