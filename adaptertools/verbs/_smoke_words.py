"""What models are asked and read when nobody says what: three prompts and a short English text."""

from __future__ import annotations

PROMPTS = (
    "The most useful thing to know about a library is",
    "Question: Why does bread rise in the oven?\nAnswer:",
    "She opened the letter, read it twice, and",
)

SENTENCES = (
    "The ferry leaves the harbour at six, and most of the passengers are still asleep.",
    "Anyone who has repaired a clock knows how much depends on the smallest wheel.",
    "In the north of the country the winters are long and the rivers freeze by December.",
    "The committee could not agree on a date, so the vote was moved to the following week.",
    "To boil an egg, put it into hot water and wait for about seven minutes.",
    "Light travels faster than sound, which is why we see the storm before we hear it.",
    "The new bridge cost twice as much as planned and was finished three years late.",
    "My grandmother kept her recipes in a tin box, and none of them named a quantity.",
    "A triangle with three equal sides has three equal angles of sixty degrees each.",
    "The film is beautifully shot, but its last hour is slow and far too long.",
    "Please send the signed form to the address below before the end of the month.",
    "Nobody at the station could say when the next train to the coast would come.",
    "Prices rose by two percent in March, mostly because of the cost of energy.",
    "The doctor asked how long he had been coughing and whether he slept well.",
    "If the program finds no file of that name, it prints a message and stops.",
    "They planted apple trees along the road, one for every child born that year.",
    "The service was quick and friendly, and we would gladly stay in this hotel again.",
    "Copper conducts heat well, so the handle of the pan is made of wood.",
    "After the war the two cities became rivals in trade, and later in football.",
    "The last page of the book was missing, and she never learned how it ended.",
)
