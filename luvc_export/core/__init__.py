"""Plans, budgets, targets and what graphs take and give: plain data that every other room shares."""
