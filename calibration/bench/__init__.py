"""Curves and tables of what ``luvc_export.runtime.bench`` measured."""
